"""One caption, told token by token while the model's own generate() writes it, or till stopped."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from vlmheads.caption import Captioner
from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin

# Name -> type, least, most and default of what a visitor may set of the decoding.
LIMITS: Mapping[str, tuple[type, float, float, float]] = {
    "max_new_tokens": (int, 1, 512, 128),
    "temperature": (float, 0, 2, 0),
    "top_p": (float, 0.05, 1, 1),
    "beams": (int, 1, 4, 1),
    "seed": (int, 0, 2**31 - 1, 0),
}


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Args:
        max_new_tokens: where a caption is cut off.
        temperature: of sampling; 0 is greedy search.
        top_p: with sampling, the share of probability that is drawn from.
        beams: of beam search, which shows nothing before it is done.
        seed: of sampling.

    Raises:
        VlmHeadsError: a value out of its range, or beams together with sampling.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name)))
        if self.beams > 1 and self.temperature:
            raise VlmHeadsError(
                f"{self.beams} beams at temperature {self.temperature:g}",
                "beams or sampling",
                "set the temperature to 0, or the beams to 1",
            )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `model.generate`."""
        given: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "num_beams": self.beams}
        if self.temperature:
            return given | {
                "do_sample": True,
                "temperature": self.temperature,
                "top_p": self.top_p,
            }
        return given | {"do_sample": False}


def _checked(name: str, value: Any) -> int | float:
    kind, low, high, _ = LIMITS[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or kind(value) != value:
        what = "a whole number" if kind is int else "a number"
        raise VlmHeadsError(f"{name}={value!r}", f"{what} from {low:g} to {high:g}")
    return kind(value)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Spoken:
    """A caption as far as it has been written.

    Args:
        text: so far.
        ids: of its tokens, the end token not counted.
        seconds: since generate() began; 0 while it waits for its turn.
        done: whether it is complete.
        stopped: whether it was stopped before its end.
        at_limit: whether the limit on new tokens cut it off.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    seconds: float = 0.0
    done: bool = False
    stopped: bool = False
    at_limit: bool = False

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return len(self.ids) / self.seconds if self.seconds else 0.0


def speak(
    captioner: Captioner,
    image: Image.Image,
    prompt: str,
    plugins: tuple[Plugin, ...],
    decoding: Decoding,
    *,
    running: threading.Lock,
    stop: threading.Event,
) -> Iterator[Spoken]:
    """Yield a caption as it grows, the whole one last; under `running`, a generation at a time.

    When the iterator is closed early the generation is stopped and waited for, so that the model
    is free and without plugins afterwards.

    Args:
        captioner: the model.
        image: what is described.
        prompt: what is asked.
        plugins: what acts.
        decoding: how tokens are chosen.
        running: held while the model generates.
        stop: ends the generation after its present token when it is set.

    Raises:
        VlmHeadsError: what `attach` refuses.
    """
    parts: queue.SimpleQueue[Spoken | BaseException] = queue.SimpleQueue()
    leave = threading.Event()
    job = _Job(captioner, image, prompt, plugins, decoding)

    def work() -> None:
        try:
            with running:
                parts.put(job.run(parts.put, lambda: stop.is_set() or leave.is_set()))
        except BaseException as error:  # it is raised again in the caller's thread
            parts.put(error)

    thread = threading.Thread(target=work, name="vlmheads-generation", daemon=True)
    thread.start()
    try:
        while True:
            part = parts.get()
            if isinstance(part, BaseException):
                raise part
            yield part
            if part.done:
                return
    finally:
        leave.set()
        thread.join()


@dataclass(frozen=True)
class _Job:
    """One generation."""

    captioner: Captioner
    image: Image.Image
    prompt: str
    plugins: tuple[Plugin, ...]
    decoding: Decoding

    def run(self, tell: Callable[[Spoken], None], stopped: Callable[[], bool]) -> Spoken:
        """Generate in this thread, telling every token, and return the whole caption."""
        if stopped():
            return Spoken(done=True, stopped=True)
        tokenizer = self.captioner.processor.tokenizer
        ends = self.captioner.model.generation_config.eos_token_id
        streamer = _Streamer(tokenizer, ends, tell)
        options = self.decoding.arguments()
        if self.decoding.beams == 1:  # generate() cannot stream beams
            options["streamer"] = streamer
        else:
            tell(Spoken(seconds=1e-9))
        criteria = StoppingCriteriaList([_Stop(stopped)])
        with torch.random.fork_rng(enabled=bool(self.decoding.temperature)):
            if self.decoding.temperature:
                torch.manual_seed(self.decoding.seed)
            start = time.perf_counter()
            (caption,) = self.captioner(
                [self.image],
                self.prompt,
                plugins=self.plugins,
                stopping_criteria=criteria,
                **options,
            )
            seconds = time.perf_counter() - start
        return Spoken(
            caption.text,
            tuple(caption.ids),
            seconds,
            done=True,
            stopped=stopped() and not caption.at_limit,
            at_limit=caption.at_limit,
        )


class _Streamer(BaseStreamer):
    """Tells the text so far whenever generate() has another token."""

    def __init__(self, tokenizer: Any, ends: Any, tell: Callable[[Spoken], None]) -> None:
        self.tokenizer, self.tell = tokenizer, tell
        self.ends = set(ends) if isinstance(ends, list) else {ends}
        self.ids: list[int] = []
        self.start: float | None = None

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt first, then a token at a time."""
        if self.start is None:
            self.start = time.perf_counter()
            self.tell(Spoken(seconds=1e-9))
            return
        self.ids += [token for token in value.flatten().tolist() if token not in self.ends]
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True).strip()
        self.tell(Spoken(text, tuple(self.ids), time.perf_counter() - self.start))

    def end(self) -> None:
        """Do nothing: the whole caption comes from generate() itself."""


class _Stop(StoppingCriteria):
    """Ends every row as soon as it is wanted."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.wanted = wanted

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return [B] True where generation should end."""
        return torch.full((len(ids),), self.wanted(), device=ids.device, dtype=torch.bool)
