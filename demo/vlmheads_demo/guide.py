"""Texts of the page: its head, and how to read what it shows."""

from vlmheads import __version__

HEADER = (
    '<div class="vh-title"><h1>vlmheads</h1>'
    "<p>Which words of a caption does the picture support?</p>"
    f'<span class="vh-version">version {__version__}</span></div>'
)

GUIDE = """
<h2>How to read it</h2>
<dl>
<dt>Captions</dt>
<dd>The plain caption is what the model says by itself. The others are what the same model says
while a method acts on it, with the same prompt and decoding. All are written one after the other,
so their times can be compared; the first run after the start is slower than the next.</dd>
<dt>Grounding score</dt>
<dd>From 0 to 1, at every word that names one of COCO's 80 objects. It is made of how much the image
changes the heads at that word (T-VHD), how much of their attention is on the image, and how likely
the word is with the image and without. A score below the threshold is underlined with dashes. It is
a measurement of the model, not of the world: a model can be sure, and wrong.</dd>
<dt>✓ and ✗</dt>
<dd>Only in scenes of the test bench, whose objects are known: whether the object is there, as CHAIR
reads the caption (variant <i>pattern</i>).</dd>
<dt>The overlay</dt>
<dd>The attention on each image token in the row that predicts the word, as the plain model reads
the caption. At first the mean of the word's vision-aware heads: the eighth of all heads whose
output the image changes most there. Attention says where a head looked, not why a word was
chosen.</dd>
<dt>The map of the heads</dt>
<dd>Vision-aware head divergence: how far a head's output is from what it is when the image is
deleted. Outlined are the heads that the method acts on, found by running it. A cell shows that
head's attention for the chosen word. Arrow keys walk in the map, Enter chooses.</dd>
<dt>Text dominance</dt>
<dd>MDI of each layer: the attention that a text token gets over what an image token gets while the
model writes its first tokens, 32 at most.</dd>
<dt>Visual sinks</dt>
<dd>Image tokens with a state so large in a few dimensions (φ ≥ τ) that they draw attention whatever
they show. Narrow models have none at the usual τ of 20.</dd>
<dt>The embedded model</dt>
<dd>A test bench: it knows 112-pixel scenes of drawn objects and nothing else, and it invents much.
What helps it need not help a large model.</dd>
<dt>From a program</dt>
<dd>Everything here can be asked for by name, as <i>Use via API</i> at the foot of the page shows:
<code>/describe</code>, <code>/stream</code>, <code>/attention</code>, <code>/export</code>,
<code>/evaluate</code>, <code>/methods</code>.</dd>
</dl>
"""
