"""What happens when something on the page is used; errors become cards on the page."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from vlmheads.errors import VlmHeadsError
from vlmheads_demo.comparison import comparison_table
from vlmheads_demo.desk import Desk
from vlmheads_demo.heads import head_table
from vlmheads_demo.messages import told
from vlmheads_demo.scenes import example
from vlmheads_demo.selection import Selection
from vlmheads_demo.services.captioning import describe
from vlmheads_demo.services.export import links, offer
from vlmheads_demo.services.generation import LIMITS
from vlmheads_demo.services.result import Result
from vlmheads_demo.uploads import read_upload
from vlmheads_demo.views import captions
from vlmheads_demo.views.word_view import picture

# A growing caption is sent at most so often, in seconds.
EVERY = 0.05
# What a browser shows by itself; a picture of another kind is turned into PNG for it.
SHOWN_BY_BROWSERS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"))


class Handlers:
    """The page's handlers.

    Args:
        desk: what all requests share.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def take_scene(self, event: gr.EventData) -> tuple[Any, Any]:
        """Put a scene of the test bench into the picture field."""
        try:
            drawn = example(event._data["scene"])
        except (VlmHeadsError, KeyError, TypeError) as error:
            return gr.skip(), captions.refused(told(error))
        return drawn.image, gr.skip()

    def receive(self, upload: Any) -> tuple[Any, str, Any]:
        """Look at an upload at once, so that a bad one is told before anything else is done."""
        try:
            found = self.desk.uploaded(path_of(upload))
            image = read_upload(found)
        except Exception as error:  # whatever it is, the visitor gets a sentence
            return None, "", captions.refused(told(error))
        suffix = found.suffix.lower() if found is not None else ""
        return (gr.skip() if suffix in SHOWN_BY_BROWSERS else image), "", captions.empty()

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
        """Describe the picture, token by token, then show what was measured."""
        kept = gr.skip()
        decoding = (max_new_tokens, temperature, top_p, beams, seed)
        try:
            wish = self.desk.wish(
                image=path_of(image),
                scene=scene or "",
                model=model,
                prompt=prompt,
                methods=[[chosen] for chosen in map(json.loads, (first, second)) if chosen],
                decoding={
                    name: value
                    for name, value in zip(LIMITS, decoding, strict=True)
                    if value is not None
                },
                tau=tau,
            )
            sent, stage = 0.0, ""
            with self.desk.runs.run(_visitor(request)) as stop:
                for part in describe(wish, running=self.desk.shelf.running, stop=stop):
                    if isinstance(part, Result):
                        self.desk.results.add(part)
                        yield self._finished(part)
                        # Gradio sends the last state again when a run ends, which may be after
                        # the visitor has chosen a word: let that one change nothing.
                        yield (kept,) * 5
                        return
                    now = time.monotonic()
                    if now - sent >= EVERY or part.stage != stage:
                        sent, stage = now, part.stage
                        growing = captions.growing(part.names, part.spoken, part.stage)
                        yield growing, "", "", "", ""
        except Exception as error:  # whatever it is, the visitor gets a sentence
            yield captions.refused(told(error)), kept, kept, kept, kept

    def _finished(self, result: Result) -> tuple[Any, ...]:
        selection = Selection.first(result)
        return (
            captions.finished(result, selection),
            picture(result, selection),
            head_table(result, selection),
            comparison_table(result),
            offer(result),
        )

    def stop(self, request: gr.Request) -> None:
        """Stop what this visitor has running."""
        self.desk.runs.stop(_visitor(request))

    def look(self, event: gr.EventData) -> tuple[Any, Any]:
        """Show what was chosen: a word, a head, or the mean of the vision-aware heads."""
        try:
            result = self.desk.results.get(event._data.get("result"))
            selection = Selection.of(result, event._data)
        except Exception as error:  # whatever it is, the visitor gets a sentence
            return captions.refused(told(error)), gr.skip()
        return picture(result, selection), head_table(result, selection)

    def export(self, event: gr.EventData) -> str:
        """Return links with everything on the page, as files that the browser keeps."""
        try:
            return links(self.desk.results.get(event._data.get("result")))
        except Exception as error:  # whatever it is, the visitor gets a sentence
            return captions.refused(told(error))

    def load(
        self,
        name: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio's way
    ) -> tuple[Any, Any, str]:
        """Load a model that a visitor named, and offer it."""
        progress(0.1, desc=f"loading {name}")
        try:
            model = self.desk.shelf.get(name)
        except Exception as error:  # whatever it is, the visitor gets a sentence
            return gr.skip(), gr.skip(), captions.refused(told(error))
        choices = self.desk.shelf.names
        note = f'<p class="vh-small" role="status">{model.geometry}</p>'
        return gr.update(choices=choices, value=model.name), gr.update(choices=choices), note


def path_of(upload: Any) -> str | None:
    """Return the path that a client names as its upload; nothing has been checked of it."""
    path = upload.get("path") if isinstance(upload, dict) else upload
    return path if isinstance(path, str) else None


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)
