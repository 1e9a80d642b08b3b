"""One caption as a stream of events while the model generates it, and how tokens are chosen."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from PIL import Image
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from vlmheads.caption import Captioner
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.candidates import CandidateRecorder, Candidates
from vlmheads.plugin import Plugin

# DecodingOptions options that visitors can set: type, minimum, maximum and default.
LIMITS: Mapping[str, tuple[type, float, float, float]] = {
    "max_new_tokens": (int, 1, 512, 128),
    "temperature": (float, 0, 2, 0),
    "top_p": (float, 0.05, 1, 1),
    "beams": (int, 1, 4, 1),
    "seed": (int, 0, 2**31 - 1, 0),
}

# Seconds of the first event: generation has begun, and there is no token yet.
STARTED = 1e-9


@dataclass(frozen=True)
class DecodingOptions:
    """How tokens are chosen.

    Args:
        max_new_tokens: the limit on the length of a caption.
        temperature: of sampling; 0 is greedy search.
        top_p: the share of probability that sampling draws from.
        beams: of beam search, which cannot be streamed.
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
class CaptionEvent:
    """A caption as far as it has been generated.

    Args:
        text: the text so far.
        ids: its token ids, without the end token.
        seconds: the time since generation began; 0 while the request is queued.
        done: whether this is the last event.
        stopped: whether the visitor stopped it.
        at_limit: whether the limit on new tokens ended it.
        candidates: the tokens that each was chosen from, and the end token behind them, of a
            finished caption without beams.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    seconds: float = 0.0
    done: bool = False
    stopped: bool = False
    at_limit: bool = False
    candidates: Candidates | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second."""
        return len(self.ids) / self.seconds if self.seconds else 0.0


def stream_caption(
    captioner: Captioner,
    image: Image.Image,
    prompt: str,
    plugins: tuple[Plugin, ...],
    decoding: DecodingOptions,
    *,
    run_lock: threading.Lock,
    stop: threading.Event,
) -> Iterator[CaptionEvent]:
    """Yield a caption as it grows, and the complete one last.

    Closing the iterator early stops the generation and waits for it, so that afterwards the model
    is free and has no plugins attached.

    Args:
        captioner: the model.
        image: the picture to describe.
        prompt: the question.
        plugins: the plugins to attach.
        decoding: how tokens are chosen.
        run_lock: held while the model generates.
        stop: ends the generation after the current token when it is set.

    Raises:
        VlmHeadsError: what `attach` refuses.
    """
    events: queue.SimpleQueue[CaptionEvent | BaseException] = queue.SimpleQueue()
    abandoned = threading.Event()

    def should_stop() -> bool:
        return stop.is_set() or abandoned.is_set()

    def work() -> None:
        try:
            with run_lock:
                events.put(
                    _generate(captioner, image, prompt, plugins, decoding, events.put, should_stop)
                )
        except BaseException as error:  # raised again in the caller's thread
            events.put(error)

    thread = threading.Thread(target=work, name="vlmheads-generation", daemon=True)
    thread.start()
    try:
        while True:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if event.done:
                return
    finally:
        abandoned.set()
        thread.join()


def _generate(
    captioner: Captioner,
    image: Image.Image,
    prompt: str,
    plugins: tuple[Plugin, ...],
    decoding: DecodingOptions,
    emit: Callable[[CaptionEvent], None],
    should_stop: Callable[[], bool],
) -> CaptionEvent:
    """Generate a caption in this thread, emitting every token, and return the last event."""
    if should_stop():
        return CaptionEvent(done=True, stopped=True)
    options = decoding.arguments()
    recorder = CandidateRecorder()
    if decoding.beams == 1:
        options["streamer"] = _Streamer(captioner.processor.tokenizer, emit)
        options["logits_processor"] = LogitsProcessorList([recorder])
    else:  # generate() cannot stream beams
        emit(CaptionEvent(seconds=STARTED))
    stopping = _Stop(should_stop)
    with torch.random.fork_rng(enabled=bool(decoding.temperature)):
        if decoding.temperature:
            torch.manual_seed(decoding.seed)
        start = time.perf_counter()
        (caption,) = captioner.generate(
            captioner.prepare([image], prompt),
            plugins=plugins,
            stopping_criteria=StoppingCriteriaList([stopping]),
            **options,
        )
        seconds = time.perf_counter() - start
    return CaptionEvent(
        caption.text,
        tuple(caption.ids),
        seconds,
        done=True,
        stopped=stopping.stopped,
        at_limit=caption.at_limit,
        candidates=recorder.candidates.cut(len(caption.ids) + 1) if recorder.candidates else None,
    )


class _Streamer(BaseStreamer):
    """Emits the text so far whenever generate() has another token."""

    def __init__(self, tokenizer: Any, emit: Callable[[CaptionEvent], None]) -> None:
        self.tokenizer, self.emit = tokenizer, emit
        self.special = frozenset(tokenizer.all_special_ids)
        self.ids: list[int] = []
        self.start: float | None = None

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt first, then one token at a time."""
        if self.start is None:
            self.start = time.perf_counter()
            self.emit(CaptionEvent(seconds=STARTED))
            return
        self.ids += [token for token in value.flatten().tolist() if token not in self.special]
        text = self.tokenizer.decode(self.ids).strip()
        self.emit(CaptionEvent(text, tuple(self.ids), time.perf_counter() - self.start))

    def end(self) -> None:
        """Do nothing: the last event is made of the caption that the captioner returns."""


class _Stop(StoppingCriteria):
    """Ends all rows once a stop is requested, and records whether it did."""

    def __init__(self, requested: Callable[[], bool]) -> None:
        self.requested, self.stopped = requested, False

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return [B] True where generation should end."""
        self.stopped = self.requested()
        return torch.full((len(ids),), self.stopped, device=ids.device, dtype=torch.bool)
