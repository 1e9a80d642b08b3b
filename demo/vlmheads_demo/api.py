"""The named endpoints: what the page does, for programs, with plain values in and out."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.events import api

from vlmheads.caption import PROMPT
from vlmheads.errors import VlmHeadsError
from vlmheads_demo.answers import answer
from vlmheads_demo.desk import Desk
from vlmheads_demo.messages import told
from vlmheads_demo.selection import Selection
from vlmheads_demo.services.captioning import describe
from vlmheads_demo.services.evaluation import Stopped, Study, evaluate
from vlmheads_demo.services.export import as_pictures
from vlmheads_demo.services.measurement import TAU, attention_of, top_heads
from vlmheads_demo.services.methods import methods, plugins_of
from vlmheads_demo.services.result import Result
from vlmheads_demo.views.describe import path_of


def add_endpoints(desk: Desk, queue: str) -> None:
    """Add the endpoints to the page that is being built.

    Args:
        desk: what all requests share.
        queue: the name of the queue for what needs the model.
    """
    endpoints = Endpoints(desk)
    api(endpoints.describe, concurrency_id=queue, concurrency_limit=1)
    api(endpoints.stream, concurrency_id=queue, concurrency_limit=1)
    api(endpoints.evaluate, concurrency_id="evaluation", concurrency_limit=1)
    api(endpoints.attention, concurrency_limit=4)
    api(endpoints.export, concurrency_limit=4)
    api(endpoints.methods, concurrency_limit=4)
    api(endpoints.stop, queue=False)


@contextmanager
def clearly() -> Iterator[None]:
    """Answer with a clear message in place of an exception of ours."""
    try:
        yield
    except Exception as error:  # whatever it is, the client gets a sentence
        raise gr.Error(told(error), print_exception=False) from None


class Endpoints:
    """The endpoints; their docstrings are their descriptions in the API's documentation.

    Args:
        desk: what all requests share.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def methods(self, model: str = "") -> list[dict[str, Any]]:
        """List the methods, each with its options, their ranges, defaults and help."""
        with clearly():
            found = self.desk.shelf.get(model or self.desk.shelf.default)
            return [method.to_dict() for method in methods(found.geometry)]

    def describe(
        self,
        image: dict[str, Any] | None = None,
        scene: str = "",
        methods: list[Any] | None = None,
        prompt: str = PROMPT,
        model: str = "",
        decoding: dict[str, Any] | None = None,
        tau: float = TAU,
        request: gr.Request | None = None,
    ) -> dict[str, Any]:
        """Describe a picture, plain and under methods, and measure every object word.

        image: a file (in Python, handle_file(path)); or scene: "test:N" or "counterfactual:N".
        methods: one list of plugins for each further caption, such as
        [[{"name": "vhr", "options": {"alpha": 1.5}}]]; at most two.
        decoding: some of max_new_tokens, temperature, top_p, beams and seed.
        Returns captions with words, scores, heads, sinks and figures; docs/demo.md has the fields.
        """
        sent = (image, scene, methods, prompt, model, decoding, tau)
        *_, last = self._steps(sent, request)
        return last

    def stream(
        self,
        image: dict[str, Any] | None = None,
        scene: str = "",
        methods: list[Any] | None = None,
        prompt: str = PROMPT,
        model: str = "",
        decoding: dict[str, Any] | None = None,
        tau: float = TAU,
        request: gr.Request | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Do what /describe does, and tell how it comes along: {"stage", "captions"}, result last.

        Arguments are those of /describe.
        """
        yield from self._steps((image, scene, methods, prompt, model, decoding, tau), request)

    def _steps(self, sent: tuple[Any, ...], request: gr.Request | None) -> Iterator[dict[str, Any]]:
        image, scene, chosen, prompt, model, decoding, tau = sent
        with clearly():
            wish = self.desk.wish(
                image=path_of(image),
                scene=scene,
                model=model,
                prompt=prompt,
                methods=chosen or [],
                decoding=decoding or {},
                tau=tau,
            )
            with self.desk.runs.run(_visitor(request)) as stop:
                for part in describe(wish, running=self.desk.shelf.running, stop=stop):
                    if isinstance(part, Result):
                        self.desk.results.add(part)
                        yield answer(part)
                    else:
                        yield {
                            "stage": part.stage,
                            "captions": [
                                {"name": name, "caption": spoken.text, "tokens": len(spoken.ids)}
                                for name, spoken in zip(part.names, part.spoken, strict=False)
                            ],
                        }

    def attention(
        self,
        result: str,
        caption: int,
        word: int,
        layer: int | None = None,
        head: int | None = None,
    ) -> dict[str, Any]:
        """Return a word's attention on the picture, of one head or the mean of those that look.

        result: the key that /describe returned; caption and word: places in its lists.
        Returns "grid" (rows, columns), "values" (row after row, shares of the attention), and
        "top_heads" (layer, head, divergence).
        """
        with clearly():
            found = self.desk.results.get(result)
            given = {"caption": caption, "word": word, "layer": layer, "head": head}
            chosen = Selection.of(found, given)
            support = found.captions[chosen.caption].support
            grid = found.picture.seen.grid
            one = None if layer is None or head is None else (layer, head)
            values = attention_of(support, word, one)
            return {
                "grid": None if grid is None else list(grid),
                "values": None if values is None else values.tolist(),
                "top_heads": [list(top) for top in top_heads(support.heads[word])],
            }

    def export(self, result: str) -> dict[str, Any]:
        """Return a run as files: "json" as values, and "pictures", PNGs by name in base64."""
        with clearly():
            found = self.desk.results.get(result)
            files = as_pictures(found)
            pictures = {name: base64.b64encode(data).decode() for name, data in files.items()}
            return {"json": answer(found), "pictures": pictures}

    def evaluate(
        self,
        methods: list[Any],
        split: str = "test",
        scenes: int = 40,
        seed: int = 0,
        max_new_tokens: int = 64,
        model: str = "",
        request: gr.Request | None = None,
    ) -> dict[str, Any]:
        """Compare methods with plain on scenes of the test bench, as `vlmheads eval compare` does.

        methods: one list of plugins a run, such as [[{"name": "vhr", "options": {}}]].
        Returns the comparison: measures with intervals, differences, frontier, verdicts.
        """
        with clearly():
            study = Study(
                self.desk.shelf.get(model or self.desk.shelf.default),
                tuple(plugins_of(method) for method in methods),
                split,
                scenes,
                seed,
                max_new_tokens,
            )
            with self.desk.runs.run(_visitor(request)) as stop:
                try:
                    return evaluate(study, running=self.desk.shelf.running, stop=stop)
                except Stopped:
                    raise VlmHeadsError("the evaluation was stopped") from None

    def stop(self, request: gr.Request | None = None) -> int:
        """Stop what this client has running, and return how much that was."""
        return self.desk.runs.stop(_visitor(request))


def _visitor(request: gr.Request | None) -> str:
    return "" if request is None else str(request.session_hash)
