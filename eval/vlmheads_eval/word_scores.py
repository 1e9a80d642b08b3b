"""How well word scores separate hallucinated from true objects, and fitting a scorer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.scores import MEASURED, Scorer
from vlmheads.model.geometry import Geometry
from vlmheads_eval.statistics import Array, Estimate, estimate, weight_blocks

# The features of the combined score.
FEATURES = ("log_probability", "image_share", "attention", "divergence")
FALSE_ALARMS = 0.05
PENALTY = 1e-3


@dataclass(frozen=True, eq=False)
class WordTable:
    """The object words of captions of many images.

    Args:
        image: [W] the index of each word's image.
        true: [W] whether the object is in the image.
        values: measure -> [W].
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
        rows = zip(*(values[name].tolist() for name in MEASURED), strict=True)
        return np.array([scorer(dict(zip(MEASURED, row, strict=True))) for row in rows])


def auroc(scores: Array, true: Array, weights: Array | None = None) -> Array:
    """Area under the ROC curve: how often a true word outscores a hallucinated one, ties half.

    Args:
        scores: [W].
        true: [W] booleans.
        weights: [D, W] how often each of D draws takes each word; once by default.

    Returns:
        [D], or [1] without weights; NaN where a draw has words of one kind only.
    """
    if weights is None:
        weights = np.ones((1, len(scores)))
    order = np.argsort(scores, kind="stable")
    ordered = weights[:, order].astype(float)
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    positive = np.add.reduceat(ordered * true[order], starts, axis=1)
    negative = np.add.reduceat(ordered * ~true[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    area = np.full(len(ordered), np.nan)
    np.divide((positive * below).sum(axis=1), pairs, out=area, where=pairs > 0)
    return area


def auroc_interval(table: WordTable, scores: Array, draws: int, seed: int = 0) -> Estimate:
    """Return the AUROC with its bootstrap interval over images."""
    drawn = [
        auroc(scores, table.true, weights[:, table.image])
        for weights in _blocks(table, draws, seed)
    ]
    return estimate(auroc(scores, table.true)[0], np.concatenate(drawn))


def flag_figures(
    table: WordTable, scores: Array, threshold: float, draws: int, seed: int = 0
) -> dict[str, Estimate]:
    """Return precision and recall of flags, and the share of true words that are flagged.

    Args:
        table: the words.
        scores: [W]; words below the threshold are flagged.
        threshold: see `Scorer`.
        draws: of the bootstrap over images.
        seed: for these draws.
    """
    flagged, hallucinated = scores < threshold, ~table.true
    parts = {
        "precision": (flagged & hallucinated, flagged),
        "recall": (flagged & hallucinated, hallucinated),
        "false alarms": (flagged & table.true, table.true),
    }
    drawn: dict[str, list[Array]] = {name: [] for name in parts}
    for weights in _blocks(table, draws, seed):
        words = weights[:, table.image].astype(float)
        for name, (above, below) in parts.items():
            drawn[name].append(_ratio(words @ above, words @ below))
    return {
        name: estimate(_ratio(above.sum(), below.sum()), np.concatenate(drawn[name]))
        for name, (above, below) in parts.items()
    }


def fit_scorer(
    table: WordTable,
    geometry: Geometry,
    provenance: Mapping[str, Any],
    *,
    features: Iterable[str] = FEATURES,
    false_alarms: float = FALSE_ALARMS,
) -> Scorer:
    """Fit the combined score of words: a logistic regression of a few standardised measures.

    True and hallucinated words have the same total weight, so that a word with a score of ½ is as
    typical of one kind as of the other. The k of T-VHD is the one with the largest AUROC alone.
    The threshold is the highest one that flags at most the given share of true words.

    Args:
        table: object words of captions.
        geometry: of the model that generated them.
        provenance: plain values that say where they come from.
        features: which measures to use.
        false_alarms: that share.

    Raises:
        VlmHeadsError: words of one kind only.
    """
    if table.true.all() or not table.true.any():
        raise VlmHeadsError(
            f"{len(table.true)} object words, {int(table.true.sum())} of them true",
            "both true and hallucinated ones",
            "fit on more images",
        )
    areas = [auroc(column, table.true)[0] for column in table.divergences.T]
    k = int(np.argmax(areas)) + 1
    names, values = tuple(features), table.at(k)
    columns = np.stack([values[name] for name in names], axis=1)
    mean, scale = columns.mean(axis=0), columns.std(axis=0)
    weights, bias = logistic((columns - mean) / scale, table.true)
    scorer = Scorer(
        _named(names, weights), bias, _named(names, mean), _named(names, scale), 0.0, k, geometry
    )
    scores = table.scores(scorer, geometry)
    threshold = float(np.quantile(scores[table.true], false_alarms, method="lower"))
    about = {
        "words": len(table.true),
        "invented": int((~table.true).sum()),
        "images": table.images,
        "false_alarms": false_alarms,
        "auroc": float(auroc(scores, table.true)[0]),
    }
    return Scorer(
        scorer.weights, bias, scorer.mean, scorer.scale, threshold, k, geometry,
        {**provenance, **about},
    )  # fmt: skip


def logistic(columns: Array, true: Array, penalty: float = PENALTY) -> tuple[Array, float]:
    """Return weights and bias of a logistic regression with an L2 penalty, by Newton's method.

    Each kind has half the weight in the mean loss; the penalty is half its value times the squared
    weights and excludes the bias.
    """
    design = np.column_stack([columns, np.ones(len(columns))])
    share = np.where(true, 0.5 / true.sum(), 0.5 / (~true).sum())
    ridge = np.append(np.full(columns.shape[1], penalty), 0.0)
    found = np.zeros(design.shape[1])
    for _ in range(100):
        chance = 1 / (1 + np.exp(-design @ found))
        slope = design.T @ (share * (chance - true)) + ridge * found
        curve = (design.T * (share * chance * (1 - chance))) @ design + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        found = found - step
        if np.abs(step).max() < 1e-10:
            break
    return found[:-1], float(found[-1])


def _named(names: tuple[str, ...], values: Array) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _blocks(table: WordTable, draws: int, seed: int) -> Iterable[Array]:
    """Yield draws of images, a few hundred at a time to limit memory."""
    for weights in weight_blocks(table.images, draws, seed):
        for start in range(0, len(weights), 250):
            yield weights[start : start + 250]


def _ratio(above: Any, below: Any) -> Array:
    above, below = np.asarray(above, float), np.asarray(below, float)
    ratio = np.full(above.shape, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio
