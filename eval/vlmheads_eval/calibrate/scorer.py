"""Fitting a scorer of words, what its flags do, and whether it beats the word's place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.scores import Scorer
from vlmheads.model.geometry import Geometry
from vlmheads_eval.statistics import Array, Estimate, estimate
from vlmheads_eval.word_scores import WordTable, auroc, auroc_within, blocks, separation

# The features of the combined score. Where a word stands is declared, so that no measure of the
# image stands in for it.
FEATURES = ("log_probability", "image_share", "attention", "divergence", "place", "repeat")
FALSE_ALARMS = 0.05
PENALTY = 1e-3


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
    typical of one kind as of the other. The k of T-VHD is the one with the largest AUROC within
    bins of places alone. The threshold is the highest one that flags at most the given share of
    true words. A measure that a word does not have counts as the mean.

    Args:
        table: object words of captions.
        geometry: of the model that generated them.
        provenance: plain values that say where they come from.
        features: which measures to use.
        false_alarms: that share.

    Raises:
        VlmHeadsError: words of one kind only, or a measure that no word has.
    """
    if table.true.all() or not table.true.any():
        raise VlmHeadsError(
            f"{len(table.true)} object words, {int(table.true.sum())} of them true",
            "both true and hallucinated ones",
            "fit on more images",
        )
    place = table.values["place"]
    areas = [auroc_within(column, table.true, place)[0] for column in table.divergences.T]
    if np.isnan(areas).all():  # too few words for any bin
        areas = [auroc(column, table.true)[0] for column in table.divergences.T]
    k = int(np.argmax(areas)) + 1
    names, values = tuple(features), table.at(k)
    columns = np.stack([values[name] for name in names], axis=1)
    absent = [name for name, there in zip(names, ~np.isnan(columns).all(axis=0), strict=True)
              if not there]  # fmt: skip
    if absent:
        raise VlmHeadsError(f"no word with the measures {absent}", "measures of the words")
    mean, scale = np.nanmean(columns, axis=0), np.nanstd(columns, axis=0)
    scale[scale == 0] = 1.0
    weights, bias = logistic(np.nan_to_num((columns - mean) / scale), table.true)
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
    return replace(scorer, threshold=threshold, provenance={**provenance, **about})


def choose_features(
    table: WordTable, geometry: Geometry, candidates: Mapping[str, Sequence[str]], seed: int = 0
) -> tuple[str, dict[str, float]]:
    """Return the features whose fit on two thirds of the images is best on the other third.

    Best is the largest AUROC within bins of places.

    Returns:
        The name of the best candidate, and the AUROC of each.
    """
    part = np.random.default_rng(seed).random(table.images) < 2 / 3
    learn, select = table.of_images(part), table.of_images(~part)
    found = {}
    for name, features in candidates.items():
        scorer = fit_scorer(learn, geometry, {}, features=features)
        scores = select.scores(scorer, geometry)
        found[name] = float(auroc_within(scores, select.true, select.values["place"])[0])
    return max(found, key=lambda name: found[name]), found


def with_evidence(
    scorer: Scorer, tables: Mapping[str, WordTable], geometry: Geometry, draws: int, seed: int = 0
) -> Scorer:
    """Return the scorer with what it does on words of images that it was not fitted on.

    Args:
        scorer: a fitted one.
        tables: name of the images -> their words.
        geometry: of the model.
        draws: of the bootstrap over images.
        seed: for these draws.
    """
    evidence = {}
    for name, table in tables.items():
        found = separation(table, table.scores(scorer, geometry), draws, seed)
        kept = ("all", "place alone", "within bins", "place within bins", "less place within bins")
        evidence[name] = {"words": len(table.true), "images": table.images} | {
            figure.replace(" ", "_"): _plain(found[figure]) for figure in kept
        }
    return replace(scorer, provenance={**scorer.provenance, "held_out": evidence})


def flag_figures(
    table: WordTable, scores: Array, threshold: float, draws: int, seed: int = 0
) -> dict[str, Estimate]:
    """Return precision and recall of flags, and the share of true words that are flagged.

    "late words" are the figures of flagging as many words by their place alone, the latest ones.

    Args:
        table: the words.
        scores: [W]; words below the threshold are flagged.
        threshold: see `Scorer`.
        draws: of the bootstrap over images.
        seed: for these draws.
    """
    flagged, hallucinated = scores < threshold, ~table.true
    latest = np.zeros_like(flagged)
    latest[np.argsort(-table.values["place"], kind="stable")[: int(flagged.sum())]] = True
    repeat = table.values["repeat"] > 0
    parts = {
        "precision": (flagged & hallucinated, flagged),
        "recall": (flagged & hallucinated, hallucinated),
        "false alarms": (flagged & table.true, table.true),
        "precision, first mentions": (flagged & hallucinated & ~repeat, flagged & ~repeat),
        "precision, repeats": (flagged & hallucinated & repeat, flagged & repeat),
        "precision of the latest words": (latest & hallucinated, latest),
        "precision less that of the latest": (flagged & hallucinated, flagged),
    }
    base = "precision of the latest words"
    drawn: dict[str, list[Array]] = {name: [] for name in parts}
    for weights in blocks(table, draws, seed):
        words = weights[:, table.image].astype(float)
        for name, (above, below) in parts.items():
            drawn[name].append(_ratio(words @ above, words @ below))
    sample = {name: _ratio(above.sum(), below.sum()) for name, (above, below) in parts.items()}
    draws_of = {name: np.concatenate(several) for name, several in drawn.items()}
    less = "precision less that of the latest"
    sample[less] = sample[less] - sample[base]
    draws_of[less] = draws_of[less] - draws_of[base]
    return {name: estimate(sample[name], draws_of[name]) for name in parts}


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


def _plain(found: Estimate) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _ratio(above: Any, below: Any) -> Array:
    above, below = np.asarray(above, float), np.asarray(below, float)
    ratio = np.full(above.shape, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio
