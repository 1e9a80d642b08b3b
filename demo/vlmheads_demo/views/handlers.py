"""What the events of the tab do on which a picture is described."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from vlmheads.errors import VlmHeadsError
from vlmheads_demo.compat import event_values, query_value, upload_path, visitor_id
from vlmheads_demo.middleware import error_message
from vlmheads_demo.services.bench import require_scene
from vlmheads_demo.services.captioning import GenerationRequest, describe_for, parse_request
from vlmheads_demo.services.examples import FirstExample
from vlmheads_demo.services.generation import LIMITS
from vlmheads_demo.services.images import draw_scene, read_upload, uploaded_file
from vlmheads_demo.services.inspection import Inspector
from vlmheads_demo.services.methods import recommended_method
from vlmheads_demo.services.result import Result, Selection
from vlmheads_demo.services.strengths import Strengths, measure_strengths, strength_of
from vlmheads_demo.state import AppState
from vlmheads_demo.views import captions, sharing
from vlmheads_demo.views.head_map import head_map
from vlmheads_demo.views.inspector import inspector
from vlmheads_demo.views.picker import method_picker, picked_method
from vlmheads_demo.views.reading import reading_view
from vlmheads_demo.views.standalone import standalone_page
from vlmheads_demo.views.strengths import strengths_view
from vlmheads_demo.views.word_view import picture_view

# The minimum interval between updates of a growing caption, in seconds.
UPDATE_INTERVAL = 0.05
# Formats that browsers show; a picture in another format is converted to PNG for the page.
BROWSER_FORMATS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"))
SELECTION = ("caption", "word", "layer", "head", "token", "patch", "gradient")
# A plain caption that took longer than this is not written four more times without being asked.
QUICK = 2.0
SLOW = (
    '<p class="vh-small">Move the slider of the method, and this picture is described at four '
    "strengths.</p>"
)
# What a run shows: captions, picture, inspector, strengths, heads, table, sharing, notice.
OUTPUTS = 8


def shown(result: Result, strengths: Strengths | None) -> tuple[str, ...]:
    """Return everything that a run shows, in the order of the page."""
    selection = Selection.initial(result)
    return (
        captions.marked_captions(result, selection),
        picture_view(result, selection),
        inspector(result, selection),
        strengths_view(strengths),
        head_map(result, selection),
        captions.comparison_table(result),
        sharing.sharing_buttons(result),
        "",
    )


class DescribeHandlers:
    """The event handlers of the tab; an error becomes a card next to what was pressed.

    Args:
        state: what all requests share.
        example: the first scene.
        shown_at_first: whether the page is built with it; otherwise it is shown to whoever opens
            the page once it is described.
    """

    def __init__(
        self, state: AppState, example: FirstExample | None = None, shown_at_first: bool = False
    ) -> None:
        self.state, self.example, self.shown_at_first = state, example, shown_at_first
        self.inspector = Inspector(state)

    def choose_scene(self, event: gr.EventData) -> tuple[Any, Any]:
        """Put a scene of the test bench into the picture field."""
        try:
            drawn = draw_scene(event_values(event, ("scene",)).get("scene", ""))
        except VlmHeadsError as error:
            return gr.skip(), _error_card(error)
        return drawn.image, ""

    def accept_upload(self, upload: Any, model: str) -> tuple[Any, str, str]:
        """Read an upload as soon as it arrives, so that a bad file is refused right away."""
        try:
            found = uploaded_file(self.state.uploads, upload_path(upload))
            image = read_upload(found)
            require_scene(self.state.models.get(model), image)
        except Exception as error:  # whatever it is, the visitor gets one sentence
            return None, "", _error_card(error)
        suffix = found.suffix.lower() if found is not None else ""
        return (gr.skip() if suffix in BROWSER_FORMATS else image), "", ""

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
        """Stream the captions of the picture, then show what was measured, and its pace.

        The pace is the time of the plain caption in seconds; infinite until it is known.
        """
        decoding = (max_new_tokens, temperature, top_p, beams, seed)
        nothing = (gr.skip(),) * (OUTPUTS + 1)
        sent, stage = 0.0, ""
        visitor = visitor_id(request)
        self.state.jobs.stop(visitor)  # captions at several strengths of an earlier run
        try:
            parsed = self._parsed(image, scene, model, prompt, (first, second), tau, decoding)
            for update in describe_for(self.state, visitor, parsed):
                if isinstance(update, Result):
                    yield (*shown(update, None), update.captions[0].caption.seconds)
                    # When a run ends Gradio sends the last outputs again, perhaps after the visitor
                    # has selected another word. Make those change nothing.
                    yield nothing
                    return
                now = time.monotonic()
                if now - sent >= UPDATE_INTERVAL or update.stage != stage:
                    sent, stage = now, update.stage
                    partial = captions.partial_captions(update.names, update.captions, stage)
                    yield (partial, *("",) * (OUTPUTS - 1), math.inf)
        except Exception as error:  # whatever it is, the visitor gets one sentence
            written = captions.placeholder() if sent else gr.skip()
            yield (written, *nothing[2:-1], _error_card(error), math.inf)

    def _parsed(
        self,
        image: Any,
        scene: str | None,
        model: str,
        prompt: str,
        methods: tuple[str, ...],
        tau: float,
        decoding: tuple[float, ...],
    ) -> GenerationRequest:
        return parse_request(
            self.state,
            image=upload_path(image),
            scene=scene or "",
            model=model,
            prompt=prompt,
            methods=[[picked] for picked in map(json.loads, methods) if picked],
            decoding={
                name: value
                for name, value in zip(LIMITS, decoding, strict=True)
                if value is not None
            },
            tau=tau,
        )

    def strengths(
        self,
        image: Any,
        scene: str | None,
        model: str,
        prompt: str,
        first: str,
        tau: float,
        max_new_tokens: float,
        temperature: float,
        top_p: float,
        beams: float,
        seed: float,
        pace: float,
        request: gr.Request,
    ) -> Iterator[Any]:
        """Write the caption at four strengths around the chosen one, if that does not take long."""
        decoding = (max_new_tokens, temperature, top_p, beams, seed)
        if pace > QUICK:
            yield SLOW if math.isfinite(pace) else gr.skip()
            return
        try:
            parsed = self._parsed(image, scene, model, prompt, (first,), tau, decoding)
            if not parsed.methods or strength_of(parsed.methods[0]) is None:
                yield ""
                return
            with self.state.jobs.start(visitor_id(request)) as stop:
                for found in measure_strengths(
                    parsed, parsed.methods[0], run_lock=self.state.models.run_lock, stop=stop
                ):
                    yield strengths_view(found)
        except Exception as error:  # whatever it is, the visitor gets one sentence
            yield _error_card(error)

    def stop(self, request: gr.Request) -> None:
        """Stop what this visitor has running."""
        self.state.jobs.stop(visitor_id(request))

    def select(self, event: gr.EventData) -> tuple[Any, Any, Any]:
        """Show what was selected: a word, a token, a head, or a place of the picture."""
        try:
            result = self._result(event)
            selection = Selection.parse(result, event_values(event, SELECTION))
            relevancy = self.inspector.relevancy(result, selection) if selection.gradient else None
            beside = inspector(result, selection)
            if selection.patch is not None:
                found = self.inspector.reading(result, selection)
                beside += reading_view(result, selection, found)
            picture = picture_view(result, selection, relevancy)
        except Exception as error:  # whatever it is, the visitor gets one sentence
            return _error_card(error), gr.skip(), gr.skip()
        return picture, beside, head_map(result, selection)

    def share(self, event: gr.EventData) -> str:
        """Return what was asked for: a link, the files, or one page with everything."""
        try:
            result = self._result(event)
            what = event_values(event, ("what",)).get("what")
            if what == "link":
                return sharing.link_view(self.state.results.share(result.key))
            if what == "page":
                example = self.example.ready if self.example else None
                own = example is not None and example.result is result
                page = standalone_page(result, example.strengths if own and example else None)
                return sharing.page_link(result, page)
            return sharing.file_links(result)
        except Exception as error:  # whatever it is, the visitor gets one sentence
            return _error_card(error)

    def open_link(self, request: gr.Request) -> tuple[Any, ...]:
        """Show the run that the address names, its picture first, or the first scene."""
        key = query_value(request, "result")
        if key is None:
            example = self.example.ready if self.example else None
            if example is None or self.shown_at_first:
                return (gr.skip(),) * (OUTPUTS + 2)
            drawn = draw_scene(example.result.scene)
            return (drawn.image, drawn.name, *shown(example.result, example.strengths))
        try:
            result: Result = self.state.results.get(key)
        except VlmHeadsError as error:
            return (*(gr.skip(),) * (OUTPUTS + 1), _error_card(error))
        image = result.image or result.prompt_measured.view.image
        return (image, result.scene, *shown(result, None))

    def choose_model(self, name: str) -> tuple[Any, Any, str]:
        """Offer the methods of another model, with what is known about each there."""
        try:
            model = self.state.models.get(name)
        except Exception as error:  # whatever it is, the visitor gets one sentence
            return gr.skip(), gr.skip(), _error_card(error)
        chosen = recommended_method(model.captioner.model)
        return (
            gr.update(
                frame=method_picker("first", "Method", model, chosen), value=picked_method(chosen)
            ),
            gr.update(
                frame=method_picker("second", "Second method", model), value=picked_method(None)
            ),
            "",
        )

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
