"""A run: captions one after the other, streamed token by token, then measured."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from vlmheads.caption import PROMPT
from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads_demo.services.bench import require_scene
from vlmheads_demo.services.generation import LIMITS, CaptionEvent, DecodingOptions, stream_caption
from vlmheads_demo.services.images import draw_scene, read_upload, uploaded_file
from vlmheads_demo.services.measurement import (
    DOMINANCE_TOKENS,
    TAU,
    measure_caption,
    measure_prompt,
)
from vlmheads_demo.services.methods import kind_of, parse_methods, spec
from vlmheads_demo.services.result import (
    MAX_KEPT_PIXELS,
    CaptionResult,
    Result,
    caption_objects,
)
from vlmheads_demo.state import AppState, Model

MAX_CAPTIONS = 3
MAX_PROMPT_LENGTH = 1000


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """A picture to describe, plain and under methods.

    Args:
        model: the model.
        image: the picture.
        prompt: the question.
        methods: the plugins of each caption after the plain one.
        decoding: how tokens are chosen.
        tau: the minimum φ of a visual sink.
        scene: the test-bench scene that the picture is; "" for an upload.
        objects: the objects in the picture; None where they are not known.

    Raises:
        VlmHeadsError: too many methods, an empty or overlong prompt, or τ out of its range.
    """

    model: Model
    image: Image.Image
    prompt: str
    methods: tuple[tuple[Plugin, ...], ...]
    decoding: DecodingOptions
    tau: float = TAU
    scene: str = ""
    objects: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if len(self.methods) >= MAX_CAPTIONS:
            raise VlmHeadsError(f"{len(self.methods)} methods", f"at most {MAX_CAPTIONS - 1}")
        if not isinstance(self.prompt, str):
            raise VlmHeadsError(f"a prompt that is a {kind_of(self.prompt)}", "a text")
        if not self.prompt.strip():
            raise VlmHeadsError("an empty prompt", 'a question such as "Describe the image."')
        if len(self.prompt) > MAX_PROMPT_LENGTH:
            raise VlmHeadsError(
                f"a prompt of {len(self.prompt)} characters", f"at most {MAX_PROMPT_LENGTH}"
            )
        if isinstance(self.tau, bool) or not isinstance(self.tau, int | float):
            raise VlmHeadsError(f"tau={self.tau!r}", "a number")
        if not 0 < self.tau <= 1000:
            raise VlmHeadsError(f"tau={self.tau:g}", "a number above 0, at most 1000")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the captions, plain first."""
        return tuple(spec(plugins) for plugins in ((), *self.methods))


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Args:
        names: names of all captions.
        captions: the captions that have begun.
        stage: the present stage, as visitors read it.
    """

    names: tuple[str, ...]
    captions: tuple[CaptionEvent, ...]
    stage: str


def parse_request(
    state: AppState,
    *,
    image: str | None = None,
    scene: str = "",
    model: str = "",
    prompt: str = PROMPT,
    methods: Sequence[Sequence[Mapping[str, Any]]] = (),
    decoding: Mapping[str, Any] | None = None,
    tau: float = TAU,
) -> GenerationRequest:
    """Check what a visitor sent.

    Args:
        state: what all requests share.
        image: the path of an upload.
        scene: the name of a test-bench scene, used instead of an upload; "" for none.
        model: its name; "" for the default.
        prompt: the question.
        methods: the plugins of each caption after the plain one.
        decoding: some of the fields of `DecodingOptions`.
        tau: the minimum φ of a visual sink.

    Raises:
        VlmHeadsError: an argument that is not valid.
    """
    decoding = {} if decoding is None else decoding
    if not isinstance(decoding, Mapping):
        raise VlmHeadsError(
            f"decoding that is a {kind_of(decoding)}",
            f"an object with some of {', '.join(LIMITS)}",
            'such as {"max_new_tokens": 64}',
        )
    unknown = [name for name in decoding if name not in LIMITS]
    if unknown:
        raise VlmHeadsError(f"decoding option {unknown[0]!r}", f"one of {', '.join(LIMITS)}")
    if image is not None and not isinstance(image, str):
        raise VlmHeadsError(
            f"an image that is a {kind_of(image)}", "an upload", "in Python, handle_file(path)"
        )
    found = state.models.get(model or state.models.default)
    objects = None
    if scene:
        drawn = draw_scene(scene)
        picture, objects = drawn.image, drawn.objects
    else:
        picture = read_upload(uploaded_file(state.uploads, image))
        require_scene(found, picture)
    return GenerationRequest(
        found,
        picture,
        prompt,
        parse_methods(methods),
        DecodingOptions(**decoding),
        tau,
        scene,
        objects,
    )


def describe_for(
    state: AppState, visitor: str, request: GenerationRequest
) -> Iterator[Progress | Result]:
    """Run a request that its visitor can stop, and keep the result for later requests.

    Yields and raises what `describe` does.
    """
    with state.jobs.start(visitor) as stop:
        for update in describe(request, run_lock=state.models.run_lock, stop=stop):
            if isinstance(update, Result):
                state.results.add(update)
            yield update


def describe(
    request: GenerationRequest, *, run_lock: threading.Lock, stop: threading.Event
) -> Iterator[Progress | Result]:
    """Yield the progress of a run, and its result last; a stopped run is not measured.

    Args:
        request: what to do.
        run_lock: held for one generation or measurement at a time.
        stop: ends the run when it is set.

    Raises:
        VlmHeadsError: what the plugins, the processor or the detectors refuse.
    """
    names = request.names
    finished: list[CaptionEvent] = []
    yield Progress(names, (), "waiting for the model")
    for plugins, name in zip(((), *request.methods), names, strict=True):
        event = CaptionEvent()
        for event in stream_caption(
            request.model.captioner,
            request.image,
            request.prompt,
            plugins,
            request.decoding,
            run_lock=run_lock,
            stop=stop,
        ):
            stage = f"generating {name}" if event.seconds else "waiting for the model"
            yield Progress(names, (*finished, event), stage)
        finished.append(event)
        if stop.is_set():
            yield Progress(names, tuple(finished), "stopped")
            return
    yield Progress(names, tuple(finished), "measuring heads and words")
    with run_lock:
        yield _measure(request, finished)


def _measure(request: GenerationRequest, captions: Sequence[CaptionEvent]) -> Result:
    model, image, prompt = request.model, request.image, request.prompt
    tokens = min(DOMINANCE_TOKENS, request.decoding.max_new_tokens)
    measured = measure_prompt(model, image, prompt, request.tau, tokens)
    results = []
    for plugins, caption, name in zip(((), *request.methods), captions, request.names, strict=True):
        results.append(
            CaptionResult(
                name,
                tuple({"name": one.name, "options": one.to_dict()} for one in plugins),
                caption,
                caption_objects(caption.text, request.objects),
                measure_caption(
                    model,
                    image,
                    prompt,
                    caption.ids,
                    caption.text,
                    plugins,
                    measured.view,
                    caption.candidates,
                    ended=not caption.at_limit and not caption.stopped,
                ),
            )
        )
    return Result(
        model.name,
        model.geometry,
        prompt,
        asdict(request.decoding),
        request.scene,
        None if request.objects is None else tuple(sorted(request.objects)),
        measured,
        tuple(results),
        image if image.width * image.height <= MAX_KEPT_PIXELS else None,
    )
