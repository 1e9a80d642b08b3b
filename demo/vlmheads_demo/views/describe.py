"""The tab on which one picture is described: its inputs and outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from vlmheads.caption import PROMPT
from vlmheads_demo.services.examples import FirstExample
from vlmheads_demo.services.generation import LIMITS
from vlmheads_demo.services.images import draw_scene
from vlmheads_demo.services.measurement import TAU
from vlmheads_demo.services.methods import recommended_method
from vlmheads_demo.state import AppState
from vlmheads_demo.views import captions
from vlmheads_demo.views.handlers import OUTPUTS, DescribeHandlers, shown
from vlmheads_demo.views.picker import method_picker, picked_method, scene_gallery
from vlmheads_demo.views.theme import asset

# The queue for everything that needs the model: one request runs, the others see their position.
MODEL_QUEUE = "model"
# The events of the page are kept out of the API, which has its own endpoints.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# On a phone the result is below the button.
_TO_RESULT = (
    "() => { if (innerWidth <= 760) document.querySelector('#vh-captions')"
    ".scrollIntoView({block: 'start'}); }"
)


class ModelFields(NamedTuple):
    """Where a model is selected and, if that is allowed, another one loaded."""

    model: gr.Dropdown
    typed: gr.Textbox | None = None
    load: gr.Button | None = None
    loaded: gr.HTML | None = None


class Outputs(NamedTuple):
    """Where a run is shown, in the order of `views.handlers.shown`."""

    written: gr.HTML
    picture: gr.HTML
    inspector: gr.HTML
    strengths: gr.HTML
    heads: gr.HTML
    table: gr.HTML
    sharing: gr.HTML
    notice: gr.HTML


def add_describe_tab(state: AppState, page: gr.Blocks) -> ModelFields:
    """Add the contents of the tab to a page, and return the fields that select its model."""
    first_scene = FirstExample(state)
    example = first_scene.wait()
    handlers = DescribeHandlers(state, first_scene, shown_at_first=example is not None)
    select = asset("select.js")
    default = state.models.get(state.models.default)
    chosen = recommended_method(default.captioner.model)
    scene_name = example.result.scene if example else ""
    values = (
        shown(example.result, example.strengths)
        if example
        else (captions.placeholder(default.packaged), *("",) * (OUTPUTS - 1))
    )
    with gr.Row(equal_height=False, elem_classes="vh-main"):
        with gr.Column(scale=4, min_width=300, elem_classes="vh-inputs"):
            image = gr.Image(
                draw_scene(scene_name).image if scene_name else None,
                label="Picture",
                sources=["upload", "clipboard"],
                image_mode=None,
                format="png",
                height=206,
                buttons=[],
                elem_id="vh-image",
                alt_text="The picture to describe",
            )
            # Its value is the name of the selected scene, set in the browser.
            scene = gr.HTML(
                scene_name,
                html_template="${frame}",
                frame=scene_gallery(scene_name),
                js_on_load=select,
                elem_id="vh-scenes",
            )
            refused = gr.HTML("", js_on_load=asset("notice.js"), elem_classes="vh-notice")
            first = gr.HTML(
                picked_method(chosen),
                html_template="${frame}",
                frame=method_picker("first", "Method", default, chosen),
                js_on_load=asset("picker.js"),
                elem_id="vh-first",
                apply_default_css=False,
            )
            with gr.Row(elem_classes="vh-buttons"):
                go = gr.Button("Describe", variant="primary", elem_id="vh-go")
                stop = gr.Button("Stop", elem_id="vh-stop")
            notice = gr.HTML("", js_on_load=asset("notice.js"), elem_classes="vh-notice")
            second = gr.HTML(
                picked_method(None),
                html_template="${frame}",
                frame=method_picker("second", "Second method", default),
                js_on_load=asset("picker.js"),
                elem_id="vh-second",
                apply_default_css=False,
            )
            with gr.Accordion("Model, prompt and decoding", open=False):
                fields = _model_fields(state)
                prompt = gr.Textbox(PROMPT, label="Prompt", lines=1, elem_id="vh-prompt")
                decoding = _decoding_fields()
                tau = gr.Number(
                    TAU, label="τ, minimum φ of a visual sink", minimum=0.1, maximum=1000
                )
        with gr.Column(scale=9, min_width=320, elem_classes="vh-outputs"):
            written = gr.HTML(values[0], js_on_load=select, elem_id="vh-captions")
            strengths = gr.HTML(values[3], js_on_load=None, elem_id="vh-strengths")
            with gr.Row(equal_height=False, elem_classes="vh-detail"):
                picture = gr.HTML(values[1], js_on_load=select, elem_id="vh-picture")
                inspected = gr.HTML(values[2], js_on_load=select, elem_id="vh-inspector")
            with gr.Row(equal_height=False, elem_classes="vh-detail"):
                heads = gr.HTML(values[4], js_on_load=select, elem_id="vh-heads")
                with gr.Column(elem_classes="vh-facts"):
                    table = gr.HTML(values[5], js_on_load=None, elem_id="vh-table")
                    sharing = gr.HTML(values[6], js_on_load=select, elem_id="vh-sharing")
    outputs = Outputs(written, picture, inspected, strengths, heads, table, sharing, notice)
    settings = [image, scene, fields.model, prompt, first]
    pace, at_once = gr.State(0.0), gr.State(0.0)
    scene.select(handlers.choose_scene, None, [image, refused], show_progress="hidden", **PRIVATE)
    # Without preprocessing: Gradio's own fails silently on a file that is not a picture.
    image.upload(
        handlers.accept_upload,
        [image, fields.model],
        [image, scene, refused],
        preprocess=False,
        show_progress="hidden",
        **PRIVATE,
    )
    image.clear(lambda: "", None, scene, **PRIVATE)
    go.click(None, None, None, js=_TO_RESULT, **PRIVATE)
    run = go.click(
        handlers.run,
        [*settings, second, tau, *decoding],
        [*outputs, pace],
        preprocess=False,
        concurrency_id=MODEL_QUEUE,
        concurrency_limit=1,
        show_progress="minimal",
        trigger_mode="once",
        **PRIVATE,
    )
    stop.click(handlers.stop, None, None, queue=False, **PRIVATE)
    # In a queue of its own, so that a new run need not wait for it.
    for event, asked in ((run.then, pace), (first.select, at_once)):
        event(
            handlers.strengths,
            [*settings, tau, *decoding, asked],
            strengths,
            preprocess=False,
            concurrency_id="strengths",
            concurrency_limit=1,
            show_progress="hidden",
            trigger_mode="always_last",
            **PRIVATE,
        )
    for component in (written, picture, inspected, heads):
        component.select(
            handlers.select,
            None,
            [picture, inspected, heads],
            concurrency_limit=4,
            show_progress="hidden",
            trigger_mode="always_last",
            **PRIVATE,
        )
    sharing.select(handlers.share, None, sharing, concurrency_limit=2, **PRIVATE)
    fields.model.change(
        handlers.choose_model,
        fields.model,
        [first, second, notice],
        show_progress="hidden",
        **PRIVATE,
    )
    page.load(handlers.open_link, None, [image, scene, *outputs], show_progress="hidden", **PRIVATE)
    return fields


def _model_fields(state: AppState) -> ModelFields:
    models = state.models
    absent = "".join(f" {name}: {how}." for name, how in models.absent.items())
    info = (
        "Others: start the demo with --model or --allow-models." if not models.allow_others else ""
    )
    model = gr.Dropdown(
        models.names, value=models.default, label="Model", info=(info + absent).strip() or None
    )
    if not models.allow_others:
        return ModelFields(model)
    typed = gr.Textbox(label="Another model", placeholder="a folder on the server, or a hub id")
    load = gr.Button("Load", size="sm")
    loaded = gr.HTML("", js_on_load=asset("notice.js"))
    return ModelFields(model, typed, load, loaded)


def _decoding_fields() -> list[Any]:
    titles = {
        "max_new_tokens": "Maximum new tokens",
        "temperature": "Temperature (0: greedy search)",
        "top_p": "Top-p",
        "beams": "Beams (streaming needs 1)",
        "seed": "Sampling seed",
    }
    fields: list[Any] = []
    for name, (kind, low, high, default) in LIMITS.items():
        if name == "seed":
            fields.append(gr.Number(default, label=titles[name], precision=0, minimum=low))
            continue
        step = 1 if kind is int else 0.05
        fields.append(gr.Slider(low, high, value=default, step=step, label=titles[name]))
    return fields
