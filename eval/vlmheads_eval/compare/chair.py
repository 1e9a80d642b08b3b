"""Runs of captions compared on the images that all of them have, and the verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.chair.measures import MEASURES, Counts, measure, overall
from vlmheads_eval.chair.score import frontier
from vlmheads_eval.compare.recall import difference_at_recall
from vlmheads_eval.compare.runs import RunScores, common_images
from vlmheads_eval.compare.verdict import flags, judge, sign
from vlmheads_eval.statistics import (
    ALPHA,
    DRAWS,
    Array,
    Estimate,
    draw,
    estimate,
    holm,
    mcnemar,
)

# Measures that are compared at equal recall; the verdict is on the first two.
AT_RECALL = ("CHAIRs", "unique_hallucination", "CHAIRi", "object_f1")
LONGER = "longer"


def compare_chair(
    runs: Sequence[RunScores], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Compare runs with the first one, the baseline, on the images that all of them have.

    For every method: differences of all measures with 95 % intervals from one paired bootstrap over
    images, McNemar's test of CHAIR_S, differences at equal recall (see `difference_at_recall`), p
    values corrected over methods by Holm (each test by itself), the smallest detectable
    differences, the number of images that the observed ones need, a verdict (see `judge`) and flags
    (see `flags`). Rates are fractions.

    Raises:
        VlmHeadsError: runs scored by different variants, or `fixed` with different parsers.
    """
    if len(readers := sorted({run.read_by for run in runs})) > 1:
        raise VlmHeadsError(
            f"runs scored with {' and with '.join(readers)}", "one variant and one parser for all"
        )
    images = common_images(runs)
    counts, cut = {}, {}
    for run in runs:
        counts[run.name], cut[run.name] = run.of(images)
    baseline, *methods = runs
    pairs = [(baseline.name, run.name) for run in methods]

    def figures(sums: Mapping[Any, Array]) -> dict[Any, Array]:
        return _figures(sums, pairs)

    sums = {
        (kind, name): rows
        for kind, arrays in (("whole", counts), ("cut", cut))
        for name, rows in arrays.items()
    }
    drawn = draw(sums, figures, draws, seed)
    sample = figures({key: rows.sum(axis=0)[np.newaxis] for key, rows in sums.items()})
    found = {key: estimate(values[0], drawn[key]) for key, values in sample.items()}
    levels = {name: overall(rows.sum(axis=0)) for name, rows in counts.items()}
    return {
        "task": "chair",
        "images": len(images),
        "left_out": {run.name: len(run.images) - len(images) for run in runs},
        "baseline": baseline.name,
        "draws": draws,
        "seed": seed,
        "runs": [
            {
                "name": run.name,
                "kind": run.kind,
                "overall": levels[run.name],
                "intervals": {
                    name: [found[run.name, name].low, found[run.name, name].high]
                    for name in MEASURES
                },
            }
            for run in runs
        ],
        "frontier": frontier(_all_columns(cut[baseline.name].sum(axis=0))),
        "methods": _judged(baseline, methods, counts, levels, found, len(images)),
    }


def _all_columns(sums: Array) -> Array:
    """Return sums of truncated captions with the columns that only whole ones have, at 0."""
    return np.pad(sums, ((0, 0), (0, len(Counts._fields) - sums.shape[1])))


def _figures(
    sums: Mapping[tuple[str, str], Array], pairs: Sequence[tuple[str, str]]
) -> dict[Any, Array]:
    """Return levels (run, measure) and differences (baseline, method, whole or cut, measure)."""
    found: dict[Any, Array] = {
        (run, name): measure(rows, name)
        for (kind, run), rows in sums.items()
        if kind == "whole"
        for name in MEASURES
    }
    for pair in pairs:
        first, second = pair
        for name in MEASURES:
            found[*pair, "whole", name] = found[second, name] - found[first, name]
        for name in AT_RECALL:
            found[*pair, "cut", name] = difference_at_recall(
                name, sums["cut", first], sums["cut", second]
            )
        words = found[first, "words"]
        ratio = np.full(words.shape, np.nan)
        np.divide(found[second, "words"], words, out=ratio, where=words > 0)
        found[*pair, LONGER] = ratio - 1
    return found


def _judged(
    baseline: RunScores,
    methods: Sequence[RunScores],
    counts: Mapping[str, Array],
    levels: Mapping[str, Mapping[str, Any]],
    found: Mapping[Any, Estimate],
    images: int,
) -> list[dict[str, Any]]:
    """Correct the p values over the methods, judge each, and return plain data."""
    change = {
        run.name: {name: found[baseline.name, run.name, "whole", name] for name in MEASURES}
        for run in methods
    }
    at_recall = {
        run.name: {name: found[baseline.name, run.name, "cut", name] for name in AT_RECALL}
        for run in methods
    }
    discordant = {
        run.name: _mcnemar(baseline, run, counts[baseline.name], counts[run.name])
        for run in methods
    }
    tests = {
        "CHAIRs": {
            name: change[name]["CHAIRs"].p if one is None else one["p"]
            for name, one in discordant.items()
        },
        "CHAIRi": {name: one["CHAIRi"].p for name, one in change.items()},
        "recall": {name: one["recall"].p for name, one in change.items()},
        **{
            f"at recall {rate}": {name: one[rate].p for name, one in at_recall.items()}
            for rate in AT_RECALL
        },
    }
    # The bootstrap of a few images knows no other images; a sign test bounds what they can show.
    least = 2.0 ** (1 - images)
    corrected = {
        test: holm({name: None if p is None else max(p, least) for name, p in values.items()})
        for test, values in tests.items()
    }
    result = []
    for run in methods:
        holm_p = {test: values[run.name] for test, values in corrected.items()}
        own, cut = change[run.name], at_recall[run.name]
        signs = [sign(cut[rate], holm_p[f"at recall {rate}"]) for rate in AT_RECALL[:2]]
        faults = flags(
            levels[run.name],
            levels[baseline.name],
            own,
            found[baseline.name, run.name, LONGER],
        )
        result.append(
            {
                "name": run.name,
                "kind": run.kind,
                "verdict": judge(signs[0], signs[1], sign(own["recall"], holm_p["recall"])),
                "flags": [flag.to_dict() for flag in faults],
                "notes": notes(baseline, run, levels, own),
                "difference": {name: one.to_dict() for name, one in own.items()},
                "mcnemar": discordant[run.name],
                "at_recall": {name: one.to_dict() for name, one in cut.items()},
                "holm": holm_p,
                "images_needed": {
                    "CHAIRs": own["CHAIRs"].needs(images),
                    "at recall CHAIRs": cut["CHAIRs"].needs(images),
                },
            }
        )
    return result


def _mcnemar(
    baseline: RunScores, method: RunScores, first: Array, second: Array
) -> dict[str, Any] | None:
    """Return McNemar's test of whether captions hallucinate; None for pooled runs."""
    if baseline.seeds > 1 or method.seeds > 1:
        return None
    column = Counts._fields.index("hallucinating")
    before, after = first[:, column] > 0, second[:, column] > 0
    fixed, broken = int((before & ~after).sum()), int((~before & after).sum())
    return {"fixed": fixed, "broken": broken, "p": mcnemar(fixed, broken)}


def notes(
    baseline: RunScores,
    method: RunScores,
    levels: Mapping[str, Mapping[str, Any]],
    difference: Mapping[str, Estimate],
) -> list[str]:
    """Return what qualifies a comparison besides flags: decoding, recall, a repetitive baseline."""
    found = []
    if baseline.decoding and method.decoding and baseline.decoding != method.decoding:
        found.append(
            f"{method.decoding} captions against {baseline.decoding} ones: the difference is also "
            "that of the decoding"
        )
    repeats = difference["repetition"]
    if (repeats.value or 0) <= -0.01 and repeats.excludes_zero:
        own, other = (levels[run.name]["repetition"] for run in (method, baseline))
        found.append(f"less repetitive than its baseline ({own:.1%} against {other:.1%})")
    recall = difference["recall"]
    if recall.value is not None and recall.p is not None and recall.p < ALPHA:
        word = "lower" if recall.value < 0 else "higher"
        found.append(f"recall is {abs(recall.value) * 100:.1f} points {word}")
    return found
