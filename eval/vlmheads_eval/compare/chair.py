"""Runs of captions compared on the images that all of them have, and the verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.measures import MEASURES, CaptionScore, Counts, count, measure, overall
from vlmheads_eval.chair.score import frontier, frontier_distance, score_captions, truncated_counts
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.records import Caption, image_key, read_captions
from vlmheads_eval.statistics import (
    ALPHA,
    BETTER,
    DRAWS,
    SAME,
    WORSE,
    Array,
    Estimate,
    differ,
    estimate,
    holm,
    mcnemar,
    resample,
)

# Measures whose differences are tested, with Holm's correction over methods for each measure.
TESTED = ("CHAIRs", "CHAIRi", "unique_hallucination")


@dataclass(frozen=True)
class RunScores:
    """The scores of one run, with one caption per image or more.

    Args:
        name: as shown in tables.
        scored: every caption with its score, in the order of the file.
        counts: image key -> counts [columns of `Counts`].
        cut: image key -> counts of the captions cut after 1, 2, ... sentences and whole
            [LONGEST + 1, columns].
        read_by: the variant that found the mentions, and what it was read with if that varies.
    """

    name: str
    scored: tuple[tuple[Caption, CaptionScore], ...]
    counts: dict[str, Array]
    cut: dict[str, Array]
    read_by: str = ""


def score_run(name: str, path: Path, truth: GroundTruth, variant: Variant) -> RunScores:
    """Return the scores of a run for every image."""
    scored = []
    counts: dict[str, Array] = {}
    cut: dict[str, Array] = {}
    for caption, words, score in score_captions(read_captions(path), truth, variant):
        scored.append((caption, score))
        key = image_key(caption.image_id)
        full = np.array(count(caption, score))
        points = np.vstack([truncated_counts(words, score, variant), full])
        counts[key] = counts.get(key, 0) + full
        cut[key] = cut.get(key, 0) + points
    read_by = f"{variant.name} {variant.read_with or ''}".strip()
    return RunScores(name, tuple(scored), counts, cut, read_by)


def compare_chair(
    runs: Sequence[RunScores], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Compare runs with the first one, the baseline, on the images that all of them have.

    For every method: differences of all measures with 95 % intervals from one paired bootstrap over
    images, McNemar's test of CHAIR_S, the distance to the baseline's truncation frontier at equal
    recall, p values corrected over methods by Holm, the smallest detectable differences, and a
    verdict (see `judge`). Rates are fractions.

    Raises:
        VlmHeadsError: runs scored by different variants, or `fixed` with different parsers.
    """
    if len(readers := sorted({run.read_by for run in runs})) > 1:
        raise VlmHeadsError(
            f"runs scored with {' and with '.join(readers)}", "one variant and one parser for all"
        )
    images = common_images(runs)
    counts = {run.name: np.array([run.counts[key] for key in images]) for run in runs}
    baseline = runs[0]
    cut = np.array([baseline.cut[key] for key in images])
    drawn = resample({**counts, "frontier": cut}, draws, seed)
    frontier_sums = (cut.sum(axis=0), drawn.pop("frontier"))
    methods = []
    for run in runs[1:]:
        sample = (counts[baseline.name].sum(axis=0), counts[run.name].sum(axis=0))
        pair = (drawn[baseline.name], drawn[run.name])
        methods.append(
            {
                "name": run.name,
                "difference": {
                    name: differ(partial(measure, name=name), sample, pair) for name in MEASURES
                },
                "mcnemar": _mcnemar(counts[baseline.name], counts[run.name]),
                "frontier": {
                    name: frontier_distance(name, frontier_sums, (sample[1], pair[1]))
                    for name in TESTED
                },
            }
        )
    return {
        "task": "chair",
        "images": len(images),
        "left_out": {run.name: len(run.counts) - len(images) for run in runs},
        "baseline": baseline.name,
        "draws": draws,
        "seed": seed,
        "runs": [
            {
                "name": run.name,
                "overall": overall(counts[run.name].sum(axis=0)),
                "intervals": {
                    name: _interval(name, counts[run.name], drawn[run.name]) for name in MEASURES
                },
            }
            for run in runs
        ],
        "frontier": frontier(frontier_sums[0]),
        "methods": _corrected(methods, {run.name: counts[run.name].sum(axis=0) for run in runs}),
    }


def common_images(runs: Sequence[Any]) -> list[str]:
    """Return the images that every run has, in the order of the first; refuse duplicate names."""
    names = [run.name for run in runs]
    if len(set(names)) != len(names):
        raise VlmHeadsError(f"two runs of one name among {names}", "distinct names")
    images = [key for key in runs[0].counts if all(key in run.counts for run in runs)]
    if not images:
        raise VlmHeadsError(f"no image that {' and '.join(names)} have in common", "at least one")
    return images


def _interval(name: str, counts: Array, drawn: Array) -> list[float | None]:
    found = estimate(measure(counts.sum(axis=0), name), measure(drawn, name))
    return [found.low, found.high]


def _mcnemar(baseline: Array, method: Array) -> dict[str, Any]:
    column = Counts._fields.index("hallucinating")
    first, second = baseline[:, column] > 0, method[:, column] > 0
    fixed, broken = int((first & ~second).sum()), int((~first & second).sum())
    return {"fixed": fixed, "broken": broken, "p": mcnemar(fixed, broken)}


def _corrected(methods: list[dict[str, Any]], sums: dict[str, Array]) -> list[dict[str, Any]]:
    """Correct the p values over the methods, add the verdicts, and return plain data."""
    tests = {
        "CHAIRs": {method["name"]: method["mcnemar"]["p"] for method in methods},
        "CHAIRi": {method["name"]: method["difference"]["CHAIRi"].p for method in methods},
        **{
            f"frontier {name}": {method["name"]: method["frontier"][name].p for method in methods}
            for name in TESTED
        },
    }
    corrected = {name: holm(values) for name, values in tests.items()}
    result = []
    for method in methods:
        holm_p = {name: values[method["name"]] for name, values in corrected.items()}
        result.append(
            {
                "name": method["name"],
                "verdict": judge(method["difference"], method["frontier"], holm_p),
                "notes": notes(method["difference"], overall(sums[method["name"]])),
                "difference": {k: v.to_dict() for k, v in method["difference"].items()},
                "mcnemar": method["mcnemar"],
                "frontier": {k: v.to_dict() for k, v in method["frontier"].items()},
                "holm": holm_p,
            }
        )
    return result


NOT_SHOWN = "not shown to beat truncation"
# Rates that a caption cannot lower by repeating a safe object.
FRONTIER_RATES = ("CHAIRs", "unique_hallucination")


def judge(
    difference: Mapping[str, Estimate],
    frontier: Mapping[str, Estimate],
    holm: Mapping[str, float | None],
) -> str:
    """Return the verdict on a method against its baseline.

    "worse": CHAIR_S or CHAIR_I is higher and neither is lower, after Holm's correction at 5 %.
    "better": one is lower, neither is higher, and at equal recall CHAIR_S or the unique-object
    rate is below the baseline's truncation frontier and neither is above it. "not shown to beat
    truncation": lower, but not below that frontier. Otherwise "not distinguishable".
    """
    signs = [_sign(difference[name].value, holm[name]) for name in ("CHAIRs", "CHAIRi")]
    if sum(signs) > 0 and min(signs) >= 0:
        return WORSE
    if sum(signs) >= 0 or max(signs) > 0:
        return SAME
    sides = [_sign(frontier[name].value, holm[f"frontier {name}"]) for name in FRONTIER_RATES]
    return BETTER if min(sides) < 0 and max(sides) <= 0 else NOT_SHOWN


def _sign(value: float | None, p: float | None) -> int:
    if value is None or p is None or p >= ALPHA:
        return 0
    return (value > 0) - (value < 0)


def notes(difference: Mapping[str, Estimate], figures: Mapping[str, Any]) -> list[str]:
    """Return what qualifies the rates: repetition, captions at the token limit, lost recall."""
    found = []
    if (figures["repetition"] or 0) > 0.01:
        found.append(f"{figures['repetition']:.1%} of its captions are repetitive")
    if (figures["at_limit"] or 0) > 0.01:
        found.append(f"{figures['at_limit']:.1%} of its captions end at the token limit")
    if figures["empty"]:
        found.append(f"{figures['empty']:.1%} of its captions are empty")
    recall = difference["recall"]
    if recall.value is not None and recall.p is not None and recall.p < ALPHA:
        word = "less" if recall.value < 0 else "more"
        found.append(f"names {abs(recall.value) * 100:.1f} points {word} of the objects present")
    return found
