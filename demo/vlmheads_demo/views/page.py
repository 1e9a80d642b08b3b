"""The page: what stands where, and what happens when something on it is used."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from vlmheads.caption import PROMPT
from vlmheads_demo.api import add_endpoints
from vlmheads_demo.desk import Desk
from vlmheads_demo.examples import gallery
from vlmheads_demo.guide import GUIDE, HEADER
from vlmheads_demo.services.generation import LIMITS
from vlmheads_demo.services.measurement import TAU
from vlmheads_demo.services.methods import methods
from vlmheads_demo.views import captions
from vlmheads_demo.views.describe import Handlers
from vlmheads_demo.views.evaluate import add_evaluation
from vlmheads_demo.views.picker import picker
from vlmheads_demo.views.theme import asset

TITLE = "vlmheads: which words does the picture support?"
# Temporary files are looked through this often and go when they are this old, in seconds.
CLEANING = (600, 3600)
# One queue for everything that needs the model: one runs, the others see their place in line.
MODEL = "model"


def build(desk: Desk) -> gr.Blocks:
    """Return the page of a server."""
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CLEANING) as page:
        add_endpoints(desk, MODEL)  # first, so that no event of the page takes their names
        gr.HTML(HEADER, elem_classes="vh-header", js_on_load=None)
        with gr.Tabs():
            with gr.Tab("Describe", id="describe"):
                fields = add_description(desk)
            with gr.Tab("Evaluate", id="evaluate"):
                study_model = add_evaluation(desk)
            with gr.Tab("How to read it", id="guide"):
                gr.HTML(GUIDE, elem_classes="vh-guide", js_on_load=None)
        if fields.load is not None and fields.loaded is not None:
            fields.load.click(
                Handlers(desk).load,
                fields.typed,
                [fields.model, study_model, fields.loaded],
                concurrency_id=MODEL,
                concurrency_limit=1,
                **_private(),
            )
    return page


class ModelFields(NamedTuple):
    """Where a model is chosen and, where that is allowed, another one loaded."""

    model: gr.Dropdown
    typed: gr.Textbox | None = None
    load: gr.Button | None = None
    loaded: gr.HTML | None = None


def add_description(desk: Desk) -> ModelFields:
    """Add the tab on which one picture is described, and return where its model is chosen."""
    handlers = Handlers(desk)
    select = asset("select.js")
    offered = methods(desk.shelf.get(desk.shelf.default).geometry)
    with gr.Row(equal_height=False, elem_classes="vh-main"):
        with gr.Column(scale=4, min_width=300, elem_classes="vh-inputs"):
            image = gr.Image(
                label="Picture",
                sources=["upload", "clipboard"],
                image_mode=None,
                format="png",
                height=230,
                buttons=[],
                elem_id="vh-image",
                alt_text="The picture to describe",
            )
            # Its value is the name of the chosen scene, at once and without asking the server.
            scene = gr.HTML(
                "",
                html_template="${frame}",
                frame=gallery(),
                js_on_load=select,
                elem_id="vh-scenes",
            )
            first, second = (
                gr.HTML(
                    _json(chosen),
                    html_template="${frame}",
                    frame=picker(name, label, offered, chosen),
                    js_on_load=asset("picker.js"),
                    elem_id=f"vh-{name}",
                    apply_default_css=False,
                )
                for name, label, chosen in (
                    ("first", "Method", "vhr"),
                    ("second", "Second method", ""),
                )
            )
            with gr.Row():
                go = gr.Button("Describe", variant="primary", elem_id="vh-go")
                stop = gr.Button("Stop", elem_id="vh-stop")
            with gr.Accordion("Model, prompt and decoding", open=False):
                fields = _model_fields(desk)
                prompt = gr.Textbox(PROMPT, label="Prompt", lines=1, elem_id="vh-prompt")
                decoding = _decoding_fields()
                tau = gr.Number(TAU, label="τ, least φ of a visual sink", minimum=0.1, maximum=1000)
        with gr.Column(scale=8, min_width=320, elem_classes="vh-outputs"):
            said = gr.HTML(captions.empty(), js_on_load=select, elem_id="vh-captions")
            with gr.Row(equal_height=False, elem_classes="vh-detail"):
                looked = gr.HTML("", js_on_load=select, elem_id="vh-picture")
                heads = gr.HTML("", js_on_load=select, elem_id="vh-heads")
            table = gr.HTML("", js_on_load=None, elem_id="vh-table")
            export = gr.HTML("", js_on_load=select, elem_id="vh-export")
    shown = [said, looked, heads, table, export]
    scene.select(handlers.take_scene, None, [image, said], show_progress="hidden", **_private())
    # Gradio's own reading of an upload fails without a word where it is no picture; ours tells.
    image.upload(
        handlers.receive,
        image,
        [image, scene, said],
        preprocess=False,
        show_progress="hidden",
        **_private(),
    )
    image.clear(lambda: "", None, scene, **_private())
    go.click(
        handlers.run,
        [image, scene, fields.model, prompt, first, second, tau, *decoding],
        shown,
        preprocess=False,
        concurrency_id=MODEL,
        concurrency_limit=1,
        show_progress="minimal",
        trigger_mode="once",
        **_private(),
    )
    stop.click(handlers.stop, None, None, queue=False, **_private())
    for component in (said, looked, heads):
        component.select(
            handlers.look,
            None,
            [looked, heads],
            concurrency_limit=4,
            show_progress="hidden",
            trigger_mode="always_last",
            **_private(),
        )
    export.select(handlers.export, None, export, concurrency_limit=2, **_private())
    return fields


def _private() -> dict[str, Any]:
    """Keep the page's own events out of the API, which has endpoints of its own."""
    return {"api_visibility": "private"}


def _json(chosen: str) -> str:
    return f'{{"name": "{chosen}", "options": {{}}}}' if chosen else "null"


def _model_fields(desk: Desk) -> ModelFields:
    shelf = desk.shelf
    info = None if shelf.allow else "Others can be loaded where the demo runs with --allow-models."
    model = gr.Dropdown(shelf.names, value=shelf.default, label="Model", info=info)
    if not shelf.allow:
        return ModelFields(model)
    typed = gr.Textbox(label="Another model", placeholder="a folder on the server, or a hub id")
    load = gr.Button("Load", size="sm")
    loaded = gr.HTML("", js_on_load=None)
    return ModelFields(model, typed, load, loaded)


def _decoding_fields() -> list[Any]:
    titles = {
        "max_new_tokens": "Most new tokens",
        "temperature": "Temperature (0 is greedy search)",
        "top_p": "Top-p of sampling",
        "beams": "Beams (more than one are not streamed)",
        "seed": "Seed of sampling",
    }
    fields: list[Any] = []
    for name, (kind, low, high, default) in LIMITS.items():
        if name == "seed":
            fields.append(gr.Number(default, label=titles[name], precision=0, minimum=low))
            continue
        step = 1 if kind is int else 0.05
        fields.append(gr.Slider(low, high, value=default, step=step, label=titles[name]))
    return fields
