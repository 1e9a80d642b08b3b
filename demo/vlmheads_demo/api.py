"""Named endpoints for programs: what the page does, with plain values in and out."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.events import api

from vlmheads.caption import PROMPT
from vlmheads.registry import get_plugin
from vlmheads_demo.compat import upload_path, visitor_id
from vlmheads_demo.middleware import error_message
from vlmheads_demo.services.captioning import describe_for, parse_request
from vlmheads_demo.services.evaluation import evaluate_for
from vlmheads_demo.services.export import result_pictures, result_to_dict, token_to_dict
from vlmheads_demo.services.groups import evidence_for, group_of
from vlmheads_demo.services.inspection import Inspector
from vlmheads_demo.services.measurement import TAU, top_heads
from vlmheads_demo.services.methods import available_methods
from vlmheads_demo.services.result import Result, Selection
from vlmheads_demo.state import AppState


def add_endpoints(state: AppState, queue: str) -> None:
    """Add the endpoints to the page that is being built.

    Args:
        state: what all requests share.
        queue: the name of the queue for requests that need the model.
    """
    endpoints = Endpoints(state)
    api(endpoints.describe, concurrency_id=queue, concurrency_limit=1)
    api(endpoints.stream, concurrency_id=queue, concurrency_limit=1)
    api(endpoints.evaluate, concurrency_id="evaluation", concurrency_limit=1)
    api(endpoints.attention, concurrency_limit=4)
    api(endpoints.inspect, concurrency_limit=4)
    api(endpoints.relevancy, concurrency_id=queue, concurrency_limit=1)
    api(endpoints.patch, concurrency_id=queue, concurrency_limit=1)
    api(endpoints.export, concurrency_limit=4)
    api(endpoints.methods, concurrency_limit=4)
    api(endpoints.stop, queue=False)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Answer an exception with a message that a client may read."""
    try:
        yield
    except Exception as error:  # whatever it is, the client gets one sentence
        raise gr.Error(error_message(error), print_exception=False) from None


class Endpoints:
    """The endpoints; their docstrings are their descriptions in the API documentation.

    Args:
        state: what all requests share.
    """

    def __init__(self, state: AppState) -> None:
        self.state, self.inspector = state, Inspector(state)

    def methods(self, model: str = "") -> list[dict[str, Any]]:
        """List the methods: group, what is known on the model, options with ranges and help."""
        with errors_as_messages():
            found = self.state.models.get(model or self.state.models.default)
            return [
                {
                    **method.to_dict(),
                    "group": group_of(get_plugin(method.name)),
                    "evidence": evidence_for(found, method.name)._asdict(),
                }
                for method in available_methods(found.geometry)
            ]

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
        """Describe a picture, plain and under methods, and score every object word.

        image: a file (in Python, handle_file(path)); or scene: "test:N" or "counterfactual:N".
        methods: the plugins of each further caption, such as
        [[{"name": "vhr", "options": {"alpha": 1.5}}]]; at most two captions.
        decoding: some of max_new_tokens, temperature, top_p, beams and seed.
        Returns captions with words, scores, heads, sinks and figures; see docs/demo.md.
        """
        sent = (image, scene, methods, prompt, model, decoding, tau)
        *_, last = self._updates(sent, request)
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
        """Do what /describe does, and report progress: {"stage", "captions"}, the result last.

        The arguments are those of /describe.
        """
        yield from self._updates((image, scene, methods, prompt, model, decoding, tau), request)

    def _updates(
        self, sent: tuple[Any, ...], request: gr.Request | None
    ) -> Iterator[dict[str, Any]]:
        image, scene, methods, prompt, model, decoding, tau = sent
        with errors_as_messages():
            parsed = parse_request(
                self.state,
                image=upload_path(image),
                scene=scene,
                model=model,
                prompt=prompt,
                methods=methods or [],
                decoding=decoding,
                tau=tau,
            )
            for update in describe_for(self.state, visitor_id(request), parsed):
                if isinstance(update, Result):
                    yield result_to_dict(update)
                else:
                    yield {
                        "stage": update.stage,
                        "captions": [
                            {"name": name, "caption": event.text, "tokens": len(event.ids)}
                            for name, event in zip(update.names, update.captions, strict=False)
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
        """Return a word's attention on the picture: of one head, or the mean of vision-aware heads.

        result: the key that /describe returned; caption and word: indices into its lists.
        Returns "grid" (rows, columns), "values" (row by row, shares of the attention), and
        "top_heads" (layer, head, VHD).
        """
        with errors_as_messages():
            found: Result = self.state.results.get(result)
            given = {"caption": caption, "word": word, "layer": layer, "head": head}
            chosen = Selection.parse(found, given)
            measured = found.captions[chosen.caption].measured
            grid = found.prompt_measured.view.grid
            values = measured.attention(word, chosen.one_head)
            return {
                "grid": None if grid is None else list(grid),
                "values": None if values is None else values.tolist(),
                "top_heads": [list(top) for top in top_heads(measured.heads[word])],
            }

    def inspect(self, result: str, caption: int, token: int) -> dict[str, Any]:
        """Return what the model would have said at a token of a caption.

        result: the key that /describe returned; caption: an index into its list; token: an index
        into the caption's tokens, or their number for the end token where one ended it.
        Returns "token", "image_gain" (nats), and lists of (text, probability): "with_image",
        "without_image", and "method" (null for the plain caption, and with beams).
        """
        with errors_as_messages():
            found: Result = self.state.results.get(result)
            chosen = Selection.parse(found, {"caption": caption, "token": token})
            return token_to_dict(found, chosen.caption, token)

    def relevancy(self, result: str, caption: int, word: int) -> dict[str, Any]:
        """Return gradient x attention of a word on the picture, summed over layers and heads.

        Returns "grid" (rows, columns) and "values" (row by row, nats).
        """
        with errors_as_messages():
            found: Result = self.state.results.get(result)
            given = {"caption": caption, "word": word, "gradient": True}
            chosen = Selection.parse(found, given)
            grid = found.prompt_measured.view.grid
            return {
                "grid": None if grid is None else list(grid),
                "values": self.inspector.relevancy(found, chosen).tolist(),
            }

    def patch(self, result: str, patch: int, caption: int = 0) -> dict[str, Any]:
        """Return what the model reads at an image token, and the words that look at it.

        patch: its index, row by row. Returns "levels", from before the first layer to the last,
        each a list of (text, probability), and "words" of the caption (text, attention).
        """
        with errors_as_messages():
            found: Result = self.state.results.get(result)
            chosen = Selection.parse(found, {"caption": caption, "patch": patch})
            return dataclasses.asdict(self.inspector.reading(found, chosen))

    def export(self, result: str) -> dict[str, Any]:
        """Return a run as files: "json", its values, and "pictures", base64 PNGs by name."""
        with errors_as_messages():
            found: Result = self.state.results.get(result)
            files = result_pictures(found)
            pictures = {name: base64.b64encode(data).decode() for name, data in files.items()}
            return {"json": result_to_dict(found), "pictures": pictures}

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

        methods: the plugins of each run, such as [[{"name": "vhr", "options": {}}]].
        Returns the comparison: measures with intervals, differences, frontier, verdicts.
        """
        with errors_as_messages():
            return evaluate_for(
                self.state,
                visitor_id(request),
                methods=methods,
                model=model,
                split=split,
                scenes=scenes,
                seed=seed,
                max_new_tokens=max_new_tokens,
            )

    def stop(self, request: gr.Request | None = None) -> int:
        """Stop everything that this client has running, and return the number of jobs."""
        return self.state.jobs.stop(visitor_id(request))
