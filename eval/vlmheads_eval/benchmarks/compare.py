"""Runs of a benchmark compared with a baseline: paired by question, resampled by cluster."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.answers import asked_items, match
from vlmheads_eval.benchmarks.clustered import (
    exchange_test,
    intervals,
    net_gains,
    paired_differences,
)
from vlmheads_eval.benchmarks.files import digests
from vlmheads_eval.benchmarks.record import Answers, Benchmark, Item, Questions, Tally, ratio
from vlmheads_eval.benchmarks.score import ASKED, UNPARSED, floor_figures, number
from vlmheads_eval.statistics import (
    ALPHA,
    BETTER,
    DRAWS,
    SAME,
    WORSE,
    Estimate,
    holm,
    mcnemar,
)

# Of these figures a smaller value is the better one.
LOWER_IS_BETTER = frozenset(("CHAIR", "Hal", "Cog"))


def compare_benchmark(
    benchmark: Benchmark,
    questions: Questions,
    runs: Mapping[str, tuple[Path, Answers]],
    reading: str | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare runs with the first one on the questions that all were to ask.

    Every figure's difference has a 95 % interval over paired draws of whole clusters. Beside it
    stand the questions that a run wins and loses, McNemar's exact test on them, which takes
    questions for independent, and the same test with whole clusters exchanged. A run is better
    (or worse) if one of the benchmark's tested figures is, after Holm's correction over runs and
    figures, and none is the opposite.

    Raises:
        VlmHeadsError: one run only, two of one name, or answers that do not fit the questions.
    """
    if len(runs) < 2:
        raise VlmHeadsError(f"{len(runs)} run", "a baseline and at least one other run")
    reading = reading or next(iter(benchmark.readings))
    paths = dict(runs.values())
    if len(paths) < len(runs):
        raise VlmHeadsError("the same run twice", "different runs")
    items = asked_items(benchmark, questions.items, reading, paths)
    for path, answers in paths.items():
        match(items, answers, questions.items, path)
    tallies = {
        name: benchmark.tally(items, answers, reading) for name, (_, answers) in runs.items()
    }
    figures = benchmark.figures(items, reading)
    tested = [figure.name for figure in figures if figure.name in benchmark.tested]
    baseline, *methods = runs
    moved = {
        name: paired_differences(tallies[baseline], tallies[name], figures, draws, seed)
        for name in methods
    }
    tests = {f"{name} {one}": moved[name][one].p for name in methods for one in tested}
    corrected = holm(tests)
    return {
        "task": benchmark.name,
        "title": benchmark.title,
        "reading": reading,
        "reading_is": benchmark.readings[reading],
        "questions": len(items),
        "questions_in_data": len(questions.items),
        "clusters": len(tallies[baseline].clusters),
        "unit": benchmark.unit,
        "baseline": baseline,
        "tested": tested,
        "draws": draws,
        "seed": seed,
        "figures": {figure.name: {"unit": figure.unit} for figure in figures},
        "floors": floor_figures(benchmark, items, reading),
        "runs": [
            {
                "name": name,
                "unparsed": _unparsed(tally),
                "figures": {
                    one: found.to_dict()
                    for one, found in intervals(tally, figures, draws, seed).items()
                },
            }
            for name, tally in tallies.items()
        ],
        "methods": [
            {
                "name": name,
                "verdict": judge(moved[name], {t: corrected[f"{name} {t}"] for t in tested}),
                "difference": {one: found.to_dict() for one, found in moved[name].items()},
                "holm": {one: corrected[f"{name} {one}"] for one in tested},
                "tests": exchanges(items, tallies[baseline], tallies[name]),
            }
            for name in methods
        ],
        "sha256": digests(questions.files),
    }


def _unparsed(tally: Tally) -> float | None:
    sums = tally.sums()
    return number(ratio(sums.get(UNPARSED, 0), sums[ASKED]))


def exchanges(items: Sequence[Item], first: Tally, second: Tally) -> dict[str, dict[str, Any]]:
    """Return what the second run wins and loses of each kind of item, with both tests' p values."""
    found = {}
    kinds = dict.fromkeys(str(item.facts.get("kind", "questions")) for item in items)
    for kind in kinds:
        chosen = [item for item in items if item.facts.get("kind", "questions") == kind]
        before = {item.key: first.correct[item.key] for item in chosen}
        won = sum(second.correct[key] and not right for key, right in before.items())
        lost = sum(right and not second.correct[key] for key, right in before.items())
        gains = net_gains(before, second.correct, {item.key: item.cluster for item in chosen})
        found[kind] = {
            "items": len(chosen),
            "won": won,
            "lost": lost,
            "mcnemar": mcnemar(lost, won),
            "mcnemar_clustered": exchange_test(list(gains.values())),
        }
    return found


def judge(difference: Mapping[str, Estimate], corrected: Mapping[str, float | None]) -> str:
    """Return "better", "worse" or "not distinguishable" from the tested figures."""
    signs = set()
    for name, p in corrected.items():
        value = difference[name].value
        if value is not None and p is not None and p < ALPHA:
            signs.add(
                (value > 0) - (value < 0)
                if name not in LOWER_IS_BETTER
                else (value < 0) - (value > 0)
            )
    if signs <= {0, 1} and 1 in signs:
        return BETTER
    return WORSE if signs <= {0, -1} and -1 in signs else SAME
