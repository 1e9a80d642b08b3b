"""A whole run: captions one after the other, token by token, then what was measured of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads_demo.services.generation import Decoding, Spoken, speak
from vlmheads_demo.services.measurement import (
    DOMINANCE_TOKENS,
    TAU,
    measure_caption,
    measure_picture,
)
from vlmheads_demo.services.methods import spec
from vlmheads_demo.services.result import Result, Said
from vlmheads_demo.state import Model
from vlmheads_demo.truth import read_caption

MOST_CAPTIONS = 3
LONGEST_PROMPT = 1000


@dataclass(frozen=True, eq=False)
class Wish:
    """What a visitor wants described.

    Args:
        model: that describes.
        image: the picture.
        prompt: what is asked.
        methods: under each of which, beside plain, the picture is described.
        decoding: how tokens are chosen.
        tau: the least φ of a visual sink.
        scene: the test-bench scene that the picture is; "" for none.
        objects: what is in the picture; None where that is not known.

    Raises:
        VlmHeadsError: too many methods, or an empty or endless prompt.
    """

    model: Model
    image: Image.Image
    prompt: str
    methods: tuple[tuple[Plugin, ...], ...]
    decoding: Decoding
    tau: float = TAU
    scene: str = ""
    objects: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if len(self.methods) >= MOST_CAPTIONS:
            raise VlmHeadsError(f"{len(self.methods)} methods", f"at most {MOST_CAPTIONS - 1}")
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise VlmHeadsError("an empty prompt", 'a question such as "Describe the image."')
        if len(self.prompt) > LONGEST_PROMPT:
            raise VlmHeadsError(
                f"a prompt of {len(self.prompt)} letters", f"at most {LONGEST_PROMPT}"
            )
        if isinstance(self.tau, bool) or not isinstance(self.tau, int | float):
            raise VlmHeadsError(f"tau={self.tau!r}", "a number")
        if not 0 < self.tau <= 1000:
            raise VlmHeadsError(f"tau={self.tau:g}", "a number above 0, up to 1000")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the captions, plain first."""
        return tuple(spec(plugins) for plugins in ((), *self.methods))


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Args:
        names: of all captions.
        spoken: of those that have begun.
        stage: what is done now, for people.
    """

    names: tuple[str, ...]
    spoken: tuple[Spoken, ...]
    stage: str


def describe(
    wish: Wish, *, running: threading.Lock, stop: threading.Event
) -> Iterator[Progress | Result]:
    """Yield how a run comes along, and its result last; nothing is measured once it is stopped.

    Args:
        wish: what to do.
        running: held while the model works, one generation or measurement at a time.
        stop: ends the run when it is set.

    Raises:
        VlmHeadsError: what the plugins, the processor or the detectors refuse.
    """
    finished: list[Spoken] = []
    yield Progress(wish.names, (), "waiting for the model")
    for plugins, name in zip(((), *wish.methods), wish.names, strict=True):
        spoken = Spoken()
        for spoken in speak(
            wish.model.captioner,
            wish.image,
            wish.prompt,
            plugins,
            wish.decoding,
            running=running,
            stop=stop,
        ):
            stage = f"writing {name}" if spoken.seconds else "waiting for the model"
            yield Progress(wish.names, (*finished, spoken), stage)
        finished.append(spoken)
        if stop.is_set():
            yield Progress(wish.names, tuple(finished), "stopped")
            return
    yield Progress(wish.names, tuple(finished), "measuring heads and words")
    with running:
        yield _measured(wish, finished)


def _measured(wish: Wish, finished: Sequence[Spoken]) -> Result:
    model, image, prompt = wish.model, wish.image, wish.prompt
    tokens = min(DOMINANCE_TOKENS, wish.decoding.max_new_tokens)
    picture = measure_picture(model, image, prompt, wish.tau, tokens)
    captions = []
    for plugins, spoken, name in zip(((), *wish.methods), finished, wish.names, strict=True):
        said = (spoken.ids, spoken.text)
        support = measure_caption(model, image, prompt, said, plugins, picture.seen)
        reading = read_caption(spoken.text, wish.objects)
        captions.append(Said(name, tuple(map(_plain, plugins)), spoken, reading, support))
    return Result(
        model.name,
        model.geometry,
        prompt,
        asdict(wish.decoding),
        wish.scene,
        None if wish.objects is None else tuple(sorted(wish.objects)),
        picture,
        tuple(captions),
    )


def _plain(plugin: Plugin) -> dict[str, Any]:
    return {"name": plugin.name, "options": plugin.to_dict()}
