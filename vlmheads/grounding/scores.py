"""How well the image supports a word: one number from what was measured of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.catalogue import ASKED, SCORES
from vlmheads.model.geometry import Geometry
from vlmheads.schema import read

MEASURED = ("divergence", "attention", "log_probability", "log_probability_without")
# Where the word stands: no measure of the image, and one that tells a lot by itself.
DECLARED = ("place", "repeat")
MEASURES = tuple(dict.fromkeys((*MEASURED, "image_share", *DECLARED, *SCORES, *ASKED)))
FILE = "grounding.json"  # Beside the weights of a model that a scorer was fitted on.
SCHEMA = 1


@dataclass(frozen=True)
class Scorer:
    """A logistic model of a word's measures: higher means better supported by the image.

    score = 1 / (1 + exp(-(bias + Σ weight (x - mean) / scale)))

    The one that `Scorer.plain` gives knows nothing of any model: it is p / (p + p₀), with p the
    word's probability with the image and p₀ without it, and a word is flagged below ½, where the
    image makes it less likely. Others are fitted on captions of one model, as
    `benchmarks/words.py` does, and are refused on a model of another geometry.

    A measure that a word does not have, such as one that is asked for of objects alone, counts as
    the mean.

    Args:
        weights: of some of `MEASURES`, by name; image_share is p / (p + p₀), place the number of
            tokens before the word, repeat 1 where the caption named the object before.
        bias: what is added to them.
        mean: of each measure, where the fit was made.
        scale: standard deviation of each measure there.
        threshold: words below it are flagged.
        k: heads of each layer that T-VHD sums; None for an eighth of them.
        geometry: of the model that it was fitted on; None for any.
        provenance: plain values that tell where it came from.

    Raises:
        VlmHeadsError: a measure that there is not, or numbers that make no score.
    """

    weights: Mapping[str, float]
    bias: float = 0.0
    mean: Mapping[str, float] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    threshold: float = 0.5
    k: int | None = None
    geometry: Geometry | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted({*self.weights, *self.mean, *self.scale} - set(MEASURES))
        if unknown or not self.weights:
            raise VlmHeadsError(
                f"a scorer of {', '.join(unknown) or 'nothing'}", f"some of {', '.join(MEASURES)}"
            )
        numbers = [self.bias, *self.weights.values(), *self.mean.values(), *self.scale.values()]
        if not all(map(math.isfinite, numbers)) or min(self.scale.values(), default=1) <= 0:
            raise VlmHeadsError("a scorer with numbers that make no score", "scales above 0")
        check_threshold(self.threshold)

    @classmethod
    def plain(cls) -> Self:
        """Return the scorer that is fitted on no model, p / (p + p₀)."""
        return cls({"log_probability": 1.0, "log_probability_without": -1.0})

    @classmethod
    def of(cls, model: Any) -> Self:
        """Return the scorer stored next to a model's weights, or `Scorer.plain` if there is none.

        Raises:
            VlmHeadsError: the file there is broken.
        """
        place = getattr(model, "name_or_path", "")  # empty where a model was built in code
        path = Path(place) / FILE
        return cls.load(path) if place and path.is_file() else cls.plain()

    @property
    def name(self) -> str:
        """What the score is: "plain", or "fitted on" a model."""
        if self.geometry is None:
            return "plain"
        return f"fitted on {self.provenance.get('model', self.geometry)}"

    @property
    def caveat(self) -> str:
        """One line where the score is not shown to tell more than the word's place; else empty.

        Place alone separates true from hallucinated objects well, so a score counts as shown where
        it beats place within bins of ten tokens, on images that it was not fitted on.
        """
        if self.geometry is None:
            return (
                "the score is p/(p+p0), fitted on no captions: it is not shown to tell "
                "hallucinated objects better than their place in the caption does"
            )
        evidence: Mapping[str, Any] = self.provenance.get("held_out") or {}
        if not evidence:
            return (
                "the scorer was not tested on images that it was not fitted on: it is not shown to "
                "tell hallucinated objects better than their place in the caption does"
            )
        beaten = [name for name, found in evidence.items() if not _beats_place(found)]
        if not beaten:
            return ""
        return (
            f"on {', '.join(beaten)} the score is not shown to tell hallucinated objects better "
            "than their place in the caption does (AUROC within bins of ten tokens)"
        )

    def __call__(self, values: Mapping[str, float]) -> float:
        """Return the score of a word from what was measured of it, from 0 to 1."""
        gain = values["log_probability"] - values["log_probability_without"]
        known = {**values, "image_gain": gain, "image_share": sigmoid(gain)}
        return sigmoid(
            self.bias
            + sum(
                weight * (known[name] - self.mean.get(name, 0.0)) / self.scale.get(name, 1.0)
                for name, weight in self.weights.items()
                if known[name] == known[name]
            )
        )

    @property
    def further(self) -> tuple[str, ...]:
        """The scores that it weighs beside `MEASURED`, which are always measured."""
        return tuple(
            name
            for name in self.weights
            if name in SCORES and name not in (*MEASURED, "image_gain")
        )

    @property
    def asked(self) -> tuple[str, ...]:
        """The scores that it weighs and that the model has to be asked for, object by object."""
        return tuple(name for name in self.weights if name in ASKED)

    def heads(self, geometry: Geometry) -> int:
        """Return the k of T-VHD on a model.

        Raises:
            VlmHeadsError: the scorer was fitted on a model of another geometry.
        """
        if self.geometry is not None:
            geometry.require(self.geometry, "a word scorer")
        return self.k or max(1, geometry.heads // 8)

    def at(self, threshold: float) -> Self:
        """Return the same scorer with another threshold."""
        return replace(self, threshold=threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as they are saved."""
        return asdict(self) | {"schema": SCHEMA}

    def save(self, path: str | Path) -> None:
        """Write the scorer as JSON."""
        text = json.dumps(self.to_dict(), indent=1, sort_keys=True)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a scorer that `save` wrote.

        Raises:
            VlmHeadsError: no such file, not a scorer, or one of a later schema.
        """
        if not Path(path).is_file():
            raise VlmHeadsError(f"no file {path}", "a word scorer, as JSON")
        about: _Saved = read(Path(path), _Saved, "a word scorer")
        if about.schema != SCHEMA:
            raise VlmHeadsError(
                f"{path} has schema {about.schema}", f"schema {SCHEMA}", "fit again"
            )
        fields = {name: getattr(about, name) for name in about.__struct_fields__}
        del fields["schema"]
        if about.geometry is not None:
            fields["geometry"] = Geometry.from_dict(about.geometry, f"{path}: geometry")
        return cls(**fields)


class _Saved(msgspec.Struct, forbid_unknown_fields=True):
    """The form of what `Scorer.save` writes."""

    schema: int
    weights: dict[str, float]
    bias: float = 0.0
    mean: dict[str, float] = {}
    scale: dict[str, float] = {}
    threshold: float = 0.5
    k: Annotated[int, msgspec.Meta(ge=1)] | None = None
    geometry: dict[str, Any] | None = None
    provenance: dict[str, Any] = {}


def _beats_place(evidence: Mapping[str, Any]) -> bool:
    """Whether the interval of the difference to place alone within bins is above 0."""
    low = (evidence.get("less_place_within_bins") or {}).get("low")
    return low is not None and low > 0


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value))."""
    # Of the two forms, the one whose exponential cannot overflow.
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no share.

    Raises:
        VlmHeadsError: not a number from 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise VlmHeadsError(f"threshold {threshold}", "a number from 0 to 1")
