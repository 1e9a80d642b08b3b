"""The page: its title, tabs and guide."""

from __future__ import annotations

import gradio as gr

from vlmheads import __version__
from vlmheads_demo.api import add_endpoints
from vlmheads_demo.state import AppState
from vlmheads_demo.views.describe import MODEL_QUEUE, PRIVATE, add_describe_tab
from vlmheads_demo.views.evaluate import add_evaluate_tab
from vlmheads_demo.views.handlers import DescribeHandlers

TITLE = "vlmheads: which words does the picture support?"
# Gradio checks for old temporary files at the first interval and deletes those older than the
# second, both in seconds.
FILE_CLEANUP = (600, 3600)

HEADER = (
    '<div class="vh-title"><h1>vlmheads</h1>'
    f'<p>Which words of a caption does the picture support? <span class="vh-version">'
    f"{__version__}</span></p></div>"
)

GUIDE = """
<h2>How to read this page</h2>
<dl>
<dt>Captions</dt>
<dd>The plain caption is the model's own. The others are what the same model generates under a
method, with the same prompt and decoding. They are generated one after the other, so their times
can be compared; the first run after the start is slower than later ones.</dd>
<dt>Grounding score</dt>
<dd>A score from 0 to 1 for every word that names one of COCO's 80 objects. It combines how much the
image changes the heads at that word (T-VHD), how much of their attention is on the image, and how
likely the word is with and without the image. Words that score below the threshold have a dashed
underline. The score describes the model, not the world: a model can be sure and wrong.</dd>
<dt>✓ and ✗</dt>
<dd>Shown only for scenes of the test bench, whose objects are known: whether the object is in the
picture, as CHAIR (variant <i>pattern</i>) reads the caption.</dd>
<dt>Four strengths</dt>
<dd>The same picture under the method at half the chosen strength, at the strength itself, and at 4
and 16 times as much. A method that helps at one strength may invent objects at another.</dd>
<dt>What else would it have said?</dt>
<dd>The tokens of the caption. A blue bar: the picture makes the token likelier (image gain); an
orange one: less likely. At the chosen token stand the five likeliest candidates of the plain model
with the picture and without it, and of the method where it has written the same beginning.</dd>
<dt>A place of the picture</dt>
<dd>Click on it, or move there with the arrow keys and press Enter: the vocabulary head reads the
image token after every layer. Early layers mean little; words that stay from the middle layers on
say what the model takes the place for.</dd>
<dt>The overlay</dt>
<dd>The attention on each image token in the row that predicts the word, as the plain model reads
the caption. By default it is the mean over the word's vision-aware heads: the eighth of all heads
whose output the image changes most. Attention shows where a head looked, not why a word was
chosen.</dd>
<dt>The map of heads</dt>
<dd>Vision-aware head divergence (VHD): how much a head's output changes when the image is removed.
Heads that the method edits are outlined; they are found by running the method. Select a cell to see
the attention of its head before the chosen word. Move with the arrow keys and press Enter.</dd>
<dt>Text dominance</dt>
<dd>The MDI of each layer: the mean attention on a text token divided by that on an image token,
over the first 32 tokens at most, on a log scale.</dd>
<dt>Visual sinks</dt>
<dd>Image tokens whose hidden state is so large in a few dimensions (φ ≥ τ) that they attract
attention whatever they show. Narrow models have none at the usual τ of 20.</dd>
<dt>The embedded model</dt>
<dd>A test bench. It knows 112-pixel scenes of drawn objects and nothing else, and it often names
objects that are not there. A method that helps it may not help a large model.</dd>
<dt>From a program</dt>
<dd>Everything on this page has a named endpoint, listed under <i>Use via API</i> at the foot of the
page: <code>/describe</code>, <code>/stream</code>, <code>/attention</code>,
<code>/relevancy</code>, <code>/inspect</code>, <code>/patch</code>, <code>/export</code>,
<code>/evaluate</code>, <code>/methods</code>, <code>/stop</code>.</dd>
</dl>
"""


def build_page(state: AppState) -> gr.Blocks:
    """Return the page of a server.

    Args:
        state: what all requests share.
    """
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=FILE_CLEANUP) as page:
        add_endpoints(state, MODEL_QUEUE)  # first, so that no event of the page takes their names
        gr.HTML(HEADER, elem_classes="vh-header", js_on_load=None)
        with gr.Tabs():
            with gr.Tab("Describe", id="describe"):
                fields = add_describe_tab(state, page)
            with gr.Tab("Evaluate", id="evaluate"):
                evaluated_model = add_evaluate_tab(state)
            with gr.Tab("How to read it", id="guide"):
                gr.HTML(GUIDE, elem_classes="vh-guide", js_on_load=None)
        if fields.load is not None and fields.loaded is not None:
            fields.load.click(
                DescribeHandlers(state).load_model,
                fields.typed,
                [fields.model, evaluated_model, fields.loaded],
                concurrency_id=MODEL_QUEUE,
                concurrency_limit=1,
                **PRIVATE,
            )
    return page
