"""Which words need the picture at all: what it gives each word, over a corpus of captions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.catalogue import checked_answers
from vlmheads.grounding.passes import run_passes
from vlmheads.grounding.readings import Needs
from vlmheads.grounding.words import Finder, Span, Word, find_objects, word_spans
from vlmheads.schema import read

FILE = "visualness.json"  # Beside the weights of a model that it was measured on.
SCHEMA = 1
THRESHOLD, FEWEST = 0.1, 5


@dataclass(frozen=True)
class Gain:
    """What the picture gives one word.

    Args:
        count: how often the captions say it.
        mean: by how many nats the picture raises its log-probability, mean of its occurrences.
        error: standard error of the mean; 1e9 for a single occurrence.
        object: whether it was ever part of an object's name.
    """

    count: int
    mean: float
    error: float
    object: bool = False


@dataclass(frozen=True)
class Visualness:
    """Which words of a model's captions need the picture, and which come without it, too.

    A word is left out of tables where the picture is shown to give it next to nothing: it occurs at
    least `fewest` times, and its mean gain plus two standard errors is below `threshold`. A word
    that names an object is never left out, nor one that was not met.

    Args:
        gains: of each word, in lower case.
        threshold: in nats.
        fewest: occurrences.
        provenance: plain values that tell where it came from.
    """

    gains: Mapping[str, Gain] = field(default_factory=dict)
    threshold: float = THRESHOLD
    fewest: int = FEWEST
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any) -> Self:
        """Return what is stored next to a model's weights; nothing is left out where there is none.

        Raises:
            VlmHeadsError: the file there is broken.
        """
        place = getattr(model, "name_or_path", "")  # empty where a model was built in code
        path = Path(place) / FILE
        return cls.load(path) if place and path.is_file() else cls()

    @classmethod
    def measured(
        cls, said: Iterable[tuple[str, float, bool]], provenance: Mapping[str, Any] | None = None
    ) -> Self:
        """Sum up the words of a corpus.

        Args:
            said: each word as it is written, what the picture gives it, and whether it is part of
                an object's name.
            provenance: plain values to keep.
        """
        found: dict[str, list[float]] = {}
        objects = set[str]()
        for text, gain, names in said:
            found.setdefault(text.lower(), []).append(gain)
            objects |= {text.lower()} if names else set()
        gains = {
            word: Gain(len(values), *_mean_and_error(values), word in objects)
            for word, values in sorted(found.items())
        }
        return cls(gains, provenance=dict(provenance or {}))

    def without_picture(self) -> tuple[str, ...]:
        """Return the words that need no picture, the most frequent first."""
        some = [word for word in self.gains if not self.needs_picture(word)]
        return tuple(sorted(some, key=lambda word: (-self.gains[word].count, word)))

    def needs_picture(self, word: str) -> bool:
        """Whether a word is not shown to come without the picture."""
        gain = self.gains.get(word.lower())
        if gain is None or gain.object or gain.count < self.fewest:
            return True
        return gain.mean + 2 * gain.error >= self.threshold

    def kept(self, words: Iterable[Word]) -> tuple[Word, ...]:
        """Return the words that belong into a table: those that need the picture, and objects."""
        return tuple(word for word in words if word.object or self.needs_picture(word.text))

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        text = json.dumps(asdict(self) | {"schema": SCHEMA}, indent=1, sort_keys=True)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            VlmHeadsError: no such file, another kind of file, or one of a later schema.
        """
        if not Path(path).is_file():
            raise VlmHeadsError(f"no file {path}", "words and their gains, as JSON")
        about: _Saved = read(Path(path), _Saved, "words and their gains")
        if about.schema != SCHEMA:
            raise VlmHeadsError(f"{path} has schema {about.schema}", f"schema {SCHEMA}")
        return cls(about.gains, about.threshold, about.fewest, about.provenance)


class _Saved(msgspec.Struct, forbid_unknown_fields=True):
    """The form of what `Visualness.save` writes."""

    schema: int
    gains: dict[str, Gain]
    threshold: Annotated[float, msgspec.Meta(ge=0)]
    fewest: Annotated[int, msgspec.Meta(ge=1)]
    provenance: dict[str, Any]


@torch.no_grad()
def token_gains(
    model: Any,
    inputs: Mapping[str, Any],
    targets: Tensor,
    other: Mapping[str, Any] | None = None,
) -> Tensor:
    """Measure by how much the image raises the log-probability of each token of an answer.

    The answer is appended to the prompt and the plain model reads it twice: with its image, and
    with another one, or, without `other`, with the image embeddings deleted. A model that never saw
    a prompt without an image may say something else altogether there, so that every word seems to
    need the picture; another picture leaves it what all captions share.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right.
        other: the same prompts with other images.

    Returns:
        [N, T] nats, float32 on the CPU.

    Raises:
        VlmHeadsError: a model that cannot be attached to or has plugins attached, targets of
            another shape or with image tokens in them, or no image in any prompt.
    """
    anatomy, given, answers = checked_answers(model, inputs, targets)
    found = run_passes(anatomy, given, answers, Needs(without=other is None))
    if other is None:
        assert found.without is not None
        return found.log_probability - found.without
    anatomy, given, answers = checked_answers(model, other, targets)
    return found.log_probability - run_passes(anatomy, given, answers, Needs()).log_probability


def gains_of_words(
    text: str, spans: Sequence[Span], gains: Sequence[float], find: Finder = find_objects
) -> list[tuple[str, float, bool]]:
    """Return each word of a caption, what the picture gives it, and whether it names an object.

    Args:
        text: the caption.
        spans: what `token_spans` says of its tokens.
        gains: of its tokens; a word's is the sum over all that it touches.
        find: finds its objects.
    """
    found = []
    for start, end, name in word_spans(text, tuple(find(text))):
        touched = [gain for (a, b), gain in zip(spans, gains, strict=True) if a < end and b > start]
        found.append((text[start:end], math.fsum(touched), name is not None))
    return found


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, 1e9  # JSON has no infinity
    spread = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))
