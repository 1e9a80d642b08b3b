"""The tab on which one picture is described: its inputs and outputs, and what its events do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr

from vlmheads.caption import PROMPT
from vlmheads.errors import VlmHeadsError
from vlmheads_demo.compat import event_values, upload_path, visitor_id
from vlmheads_demo.middleware import error_message
from vlmheads_demo.services.captioning import describe_for, parse_request
from vlmheads_demo.services.generation import LIMITS
from vlmheads_demo.services.images import draw_scene, read_upload, uploaded_file
from vlmheads_demo.services.measurement import TAU
from vlmheads_demo.services.methods import available_methods, recommended_method
from vlmheads_demo.services.result import Result, Selection
from vlmheads_demo.state import AppState
from vlmheads_demo.views import captions
from vlmheads_demo.views.picker import method_picker, picked_method, scene_gallery
from vlmheads_demo.views.theme import asset
from vlmheads_demo.views.word_view import head_map, picture_view

# The queue for everything that needs the model: one request runs, the others see their position.
MODEL_QUEUE = "model"
# The events of the page are kept out of the API, which has its own endpoints.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# The minimum interval between updates of a growing caption, in seconds.
UPDATE_INTERVAL = 0.05
# Formats that browsers show; a picture in another format is converted to PNG for the page.
BROWSER_FORMATS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"))
SELECTION = ("caption", "word", "layer", "head")


class ModelFields(NamedTuple):
    """Where a model is selected and, if that is allowed, another one loaded."""

    model: gr.Dropdown
    typed: gr.Textbox | None = None
    load: gr.Button | None = None
    loaded: gr.HTML | None = None


def add_describe_tab(state: AppState) -> ModelFields:
    """Add the contents of the tab, and return the fields that select its model."""
    handlers = DescribeHandlers(state)
    select = asset("select.js")
    default = state.models.get(state.models.default)
    offered = available_methods(default.geometry)
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
            # Its value is the name of the selected scene, set in the browser.
            scene = gr.HTML(
                "",
                html_template="${frame}",
                frame=scene_gallery(),
                js_on_load=select,
                elem_id="vh-scenes",
            )
            first, second = (
                gr.HTML(
                    picked_method(chosen),
                    html_template="${frame}",
                    frame=method_picker(name, label, offered, chosen),
                    js_on_load=asset("picker.js"),
                    elem_id=f"vh-{name}",
                    apply_default_css=False,
                )
                for name, label, chosen in (
                    ("first", "Method", recommended_method(default.captioner.model)),
                    ("second", "Second method", None),
                )
            )
            with gr.Row():
                go = gr.Button("Describe", variant="primary", elem_id="vh-go")
                stop = gr.Button("Stop", elem_id="vh-stop")
            with gr.Accordion("Model, prompt and decoding", open=False):
                fields = _model_fields(state)
                prompt = gr.Textbox(PROMPT, label="Prompt", lines=1, elem_id="vh-prompt")
                decoding = _decoding_fields()
                tau = gr.Number(
                    TAU, label="τ, minimum φ of a visual sink", minimum=0.1, maximum=1000
                )
        with gr.Column(scale=8, min_width=320, elem_classes="vh-outputs"):
            written = gr.HTML(captions.placeholder(), js_on_load=select, elem_id="vh-captions")
            with gr.Row(equal_height=False, elem_classes="vh-detail"):
                picture = gr.HTML("", js_on_load=select, elem_id="vh-picture")
                heads = gr.HTML("", js_on_load=select, elem_id="vh-heads")
            table = gr.HTML("", js_on_load=None, elem_id="vh-table")
            export = gr.HTML("", js_on_load=select, elem_id="vh-export")
    outputs = [written, picture, heads, table, export]
    scene.select(handlers.choose_scene, None, [image, written], show_progress="hidden", **PRIVATE)
    # Without preprocessing: Gradio's own fails silently on a file that is not a picture.
    image.upload(
        handlers.accept_upload,
        image,
        [image, scene, written],
        preprocess=False,
        show_progress="hidden",
        **PRIVATE,
    )
    image.clear(lambda: "", None, scene, **PRIVATE)
    go.click(
        handlers.run,
        [image, scene, fields.model, prompt, first, second, tau, *decoding],
        outputs,
        preprocess=False,
        concurrency_id=MODEL_QUEUE,
        concurrency_limit=1,
        show_progress="minimal",
        trigger_mode="once",
        **PRIVATE,
    )
    stop.click(handlers.stop, None, None, queue=False, **PRIVATE)
    for component in (written, picture, heads):
        component.select(
            handlers.select,
            None,
            [picture, heads],
            concurrency_limit=4,
            show_progress="hidden",
            trigger_mode="always_last",
            **PRIVATE,
        )
    export.select(handlers.export, None, export, concurrency_limit=2, **PRIVATE)
    return fields


def _model_fields(state: AppState) -> ModelFields:
    models = state.models
    info = None if models.allow_others else "Start the demo with --allow-models to load others."
    model = gr.Dropdown(models.names, value=models.default, label="Model", info=info)
    if not models.allow_others:
        return ModelFields(model)
    typed = gr.Textbox(label="Another model", placeholder="a folder on the server, or a hub id")
    load = gr.Button("Load", size="sm")
    loaded = gr.HTML("", js_on_load=None)
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


class DescribeHandlers:
    """The event handlers of the tab; an error becomes a card in place of the captions.

    Args:
        state: what all requests share.
    """

    def __init__(self, state: AppState) -> None:
        self.state = state

    def choose_scene(self, event: gr.EventData) -> tuple[Any, Any]:
        """Put a scene of the test bench into the picture field."""
        try:
            drawn = draw_scene(event_values(event, ("scene",)).get("scene", ""))
        except VlmHeadsError as error:
            return gr.skip(), _error_card(error)
        return drawn.image, gr.skip()

    def accept_upload(self, upload: Any) -> tuple[Any, str, Any]:
        """Read an upload as soon as it arrives, so that a bad file is refused right away."""
        try:
            found = uploaded_file(self.state.uploads, upload_path(upload))
            image = read_upload(found)
        except Exception as error:  # whatever it is, the visitor gets one sentence
            return None, "", _error_card(error)
        suffix = found.suffix.lower() if found is not None else ""
        return (gr.skip() if suffix in BROWSER_FORMATS else image), "", captions.placeholder()

    def run(
        self,
        image: Any,
        scene: str | None,
        model: str,
        prompt: str,
        first: str,
        second: str,
        tau: float,
        max_new_tokens: float,
        temperature: float,
        top_p: float,
        beams: float,
        seed: float,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Stream the captions of the picture, then show what was measured."""
        decoding = (max_new_tokens, temperature, top_p, beams, seed)
        try:
            parsed = parse_request(
                self.state,
                image=upload_path(image),
                scene=scene or "",
                model=model,
                prompt=prompt,
                methods=[[picked] for picked in map(json.loads, (first, second)) if picked],
                decoding={
                    name: value
                    for name, value in zip(LIMITS, decoding, strict=True)
                    if value is not None
                },
                tau=tau,
            )
            sent, stage = 0.0, ""
            for update in describe_for(self.state, visitor_id(request), parsed):
                if isinstance(update, Result):
                    yield self._outputs(update)
                    # When a run ends Gradio sends the last outputs again, perhaps after the visitor
                    # has selected another word. Make those change nothing.
                    yield (gr.skip(),) * 5
                    return
                now = time.monotonic()
                if now - sent >= UPDATE_INTERVAL or update.stage != stage:
                    sent, stage = now, update.stage
                    partial = captions.partial_captions(update.names, update.captions, stage)
                    yield partial, "", "", "", ""
        except Exception as error:  # whatever it is, the visitor gets one sentence
            yield (_error_card(error), *(gr.skip(),) * 4)

    def _outputs(self, result: Result) -> tuple[Any, ...]:
        selection = Selection.initial(result)
        return (
            captions.marked_captions(result, selection),
            picture_view(result, selection),
            head_map(result, selection),
            captions.comparison_table(result),
            captions.export_button(result),
        )

    def stop(self, request: gr.Request) -> None:
        """Stop what this visitor has running."""
        self.state.jobs.stop(visitor_id(request))

    def select(self, event: gr.EventData) -> tuple[Any, Any]:
        """Show what was selected: a word, a head, or the mean of the vision-aware heads."""
        try:
            result = self._result(event)
            selection = Selection.parse(result, event_values(event, SELECTION))
        except Exception as error:  # whatever it is, the visitor gets one sentence
            return _error_card(error), gr.skip()
        return picture_view(result, selection), head_map(result, selection)

    def export(self, event: gr.EventData) -> str:
        """Return links with everything on the page, as files that the browser saves."""
        try:
            return captions.export_links(self._result(event))
        except Exception as error:  # whatever it is, the visitor gets one sentence
            return _error_card(error)

    def _result(self, event: gr.EventData) -> Result:
        """Return the run that an event belongs to."""
        found: Result = self.state.results.get(event_values(event, ("result",)).get("result"))
        return found

    def load_model(
        self,
        name: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - where Gradio looks for it
    ) -> tuple[Any, Any, str]:
        """Load a model that a visitor named, and add it to both tabs."""
        progress(0.1, desc=f"loading {name}")
        try:
            model = self.state.models.get(name)
        except Exception as error:  # whatever it is, the visitor gets one sentence
            return gr.skip(), gr.skip(), _error_card(error)
        choices = self.state.models.names
        note = f'<p class="vh-small" role="status">{model.geometry}</p>'
        return gr.update(choices=choices, value=model.name), gr.update(choices=choices), note


def _error_card(error: Exception) -> str:
    return captions.error_card(error_message(error))
