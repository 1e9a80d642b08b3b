"""How well word scores separate true from hallucinated objects, next to the word's place alone.

Hallucinated objects come late and are seldom named twice, so that a word's place by itself, and any
score that falls with the length of the answer, separates the two kinds. Every figure of a score
therefore stands next to what place alone does on the same words, and to what is left within bins of
ten tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlmheads_eval.statistics import Array, Estimate, estimate, weight_blocks

if TYPE_CHECKING:
    from vlmheads.grounding.scores import Scorer
    from vlmheads.model.geometry import Geometry

BIN = 10  # Tokens.
FEWEST = 10  # Words of a bin that counts.
# Figures of a score, in the order of its table.
COLUMNS = (
    "all",
    "place alone",
    "within bins",
    "first mentions",
    "place alone, first mentions",
    "repeats",
)


@dataclass(frozen=True, eq=False)
class WordTable:
    """The object words of captions of many images.

    Args:
        image: [W] the index of each word's image.
        true: [W] whether the object is in the image.
        values: measure -> [W], NaN where a word has none; "place" (tokens before the word) and
            "repeat" (1 where the caption named the object before) among them.
        divergences: [W, H] T-VHD of each word for k = 1 to H heads of a layer.
        images: the number of images, including those without an object word.
    """

    image: Array
    true: Array
    values: Mapping[str, Array]
    divergences: Array
    images: int

    def at(self, k: int) -> Mapping[str, Array]:
        """Return the measures with the T-VHD for one k, and derived ones."""
        gain = self.values["log_probability"] - self.values["log_probability_without"]
        derived = {"image_share": 1 / (1 + np.exp(-gain)), "image_gain": gain}
        return {**self.values, "divergence": self.divergences[:, k - 1], **derived}

    def scores(self, scorer: Scorer, geometry: Geometry) -> Array:
        """Return a scorer's score for each word [W]."""
        values = self.at(scorer.heads(geometry))
        names = list(values)
        rows = zip(*(values[name].tolist() for name in names), strict=True)
        return np.array([scorer(dict(zip(names, row, strict=True))) for row in rows])

    def rows(self, chosen: Array) -> WordTable:
        """Return the words that are chosen [W]; the images stay as they are."""
        values = {name: column[chosen] for name, column in self.values.items()}
        return WordTable(
            self.image[chosen], self.true[chosen], values, self.divergences[chosen], self.images
        )

    def of_images(self, chosen: Array) -> WordTable:
        """Return the words of the images that are chosen [images], numbered anew."""
        part = self.rows(chosen[self.image])
        number = np.cumsum(chosen) - 1
        return WordTable(
            number[part.image], part.true, part.values, part.divergences, int(chosen.sum())
        )


def auroc(scores: Array, true: Array, weights: Array | None = None) -> Array:
    """Area under the ROC curve: how often a true word outscores a hallucinated one, ties half.

    Args:
        scores: [W].
        true: [W] booleans.
        weights: [D, W] how often each of D draws takes each word; once by default.

    Returns:
        [D], or [1] without weights; NaN where a draw has words of one kind only.
    """
    return _ratio(*_won(scores, true, weights))


def auroc_within(
    scores: Array, true: Array, place: Array, weights: Array | None = None, *, size: int = BIN
) -> Array:
    """AUROC among words of the same bin of places, which stand about as late.

    Bins of words of one kind, or of fewer than 10, are left out; the others count by their pairs
    of a true and a hallucinated word.

    Args:
        scores: [W].
        true: [W] booleans.
        place: [W] tokens before each word.
        weights: as `auroc` takes them.
        size: tokens of a bin.

    Returns:
        As `auroc`; NaN where no bin is left.
    """
    draws = 1 if weights is None else len(weights)
    won, pairs = np.zeros(draws), np.zeros(draws)
    bins = place // size
    for one in np.unique(bins):
        inside = bins == one
        if inside.sum() < FEWEST or true[inside].all() or not true[inside].any():
            continue
        part = None if weights is None else weights[:, inside]
        more, of = _won(scores[inside], true[inside], part)
        won, pairs = won + more, pairs + of
    return _ratio(won, pairs)


def auroc_interval(table: WordTable, scores: Array, draws: int, seed: int = 0) -> Estimate:
    """Return the AUROC with its bootstrap interval over images."""
    drawn = [
        auroc(scores, table.true, weights[:, table.image]) for weights in blocks(table, draws, seed)
    ]
    return estimate(auroc(scores, table.true)[0], np.concatenate(drawn))


def separation(table: WordTable, scores: Array, draws: int, seed: int = 0) -> dict[str, Estimate]:
    """Return how well scores, higher for true words, separate the two kinds.

    Words without the score (NaN) are left out of every figure, place alone included. All
    intervals are over images, with the same draws.

    Args:
        table: the words.
        scores: [W].
        draws: of the bootstrap over images.
        seed: for these draws.

    Returns:
        The AUROC under each name of `COLUMNS`; "place within bins"; and "less place within
        bins", the difference of the two within bins.
    """
    known = ~np.isnan(scores)
    table, scores = table.rows(known), scores[known]
    found = _figures(table, scores, None)
    drawn: dict[str, list[Array]] = {name: [] for name in found}
    for weights in blocks(table, draws, seed):
        for name, values in _figures(table, scores, weights[:, table.image]).items():
            drawn[name].append(values)
    return {name: estimate(found[name][0], np.concatenate(drawn[name])) for name in found}


def _figures(table: WordTable, scores: Array, weights: Array | None) -> dict[str, Array]:
    """Return the figures of `separation` on the sample, or on draws [D, W] of words."""
    true, place = table.true, table.values["place"]
    repeat = table.values["repeat"] > 0
    parts = {}
    for name, chosen in (("first mentions", ~repeat), ("repeats", repeat)):
        taken = None if weights is None else weights[:, chosen]
        parts[name] = auroc(scores[chosen], true[chosen], taken)
        parts[f"place alone, {name}"] = auroc(-place[chosen], true[chosen], taken)
    within = auroc_within(scores, true, place, weights)
    placed = auroc_within(-place, true, place, weights)
    return {
        "all": auroc(scores, true, weights),
        "place alone": auroc(-place, true, weights),
        "within bins": within,
        "place within bins": placed,
        "less place within bins": within - placed,
        **parts,
    }


def blocks(table: WordTable, draws: int, seed: int) -> Iterator[Array]:
    """Yield draws of images, a few hundred at a time to limit memory."""
    for weights in weight_blocks(table.images, draws, seed):
        for start in range(0, len(weights), 250):
            yield weights[start : start + 250]


def _won(scores: Array, true: Array, weights: Array | None) -> tuple[Array, Array]:
    """Return in how many pairs the true word outscores the other, and of how many, [D] each."""
    if weights is None:
        weights = np.ones((1, len(scores)))
    if not len(scores):
        return np.zeros(len(weights)), np.zeros(len(weights))
    order = np.argsort(scores, kind="stable")
    ordered = weights[:, order].astype(float)
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    positive = np.add.reduceat(ordered * true[order], starts, axis=1)
    negative = np.add.reduceat(ordered * ~true[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return (positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1)


def _ratio(above: Array, below: Array) -> Array:
    ratio = np.full(below.shape, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def higher_is_true() -> dict[str, bool]:
    """Return for each score whether words that the image supports have higher values."""
    from vlmheads.grounding.catalogue import SCORES

    found = {name: score.higher_is_true for name, score in SCORES.items()}
    return found | {"log_probability_without": True, "p_yes": True, "lpfv": True, "repeat": True,
                    "image_share": True, "place": False}  # fmt: skip


def directed(values: Mapping[str, Array], names: Iterable[str]) -> dict[str, Array]:
    """Return measures with their signs turned where low values mean true."""
    higher = higher_is_true()
    return {name: values[name] if higher[name] else -values[name] for name in names}
