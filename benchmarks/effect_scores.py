"""Scores of benchmarks/effect.py's runs: against plain, random heads and plain captions cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from effect_settings import Setting
from vlmheads_eval.compare import RunScores, compare_chair, score_run
from vlmheads_eval.frontier_distance import frontier_distance
from vlmheads_eval.ground_truth import load_ground_truth
from vlmheads_eval.lineages import lineage
from vlmheads_eval.measures import measure
from vlmheads_eval.run_folder import ground_truth_of, missing
from vlmheads_eval.statistics import Estimate, differ, holm, resample

# Against random heads, and at the same recall against cut captions.
COMPARED = ("CHAIRi", "CHAIRs", "unique_hallucination", "recall", "object_f1")
AT_RECALL = ("CHAIRs", "unique_hallucination", "object_f1")


def compared(runs: Mapping[Setting, Path], reading: str, draws: int, seed: int) -> dict[str, Any]:
    """Return everything that the document says about one split.

    Runs that are not there, or not complete, are named under "missing", and refused ones with the
    reason under "refused". Holm's correction is over the methods: all settings of all plugins, and
    the model without the image.
    """
    done, refused, absent = {}, {}, []
    for setting, run in runs.items():
        if (run / "refused").is_file():
            refused[setting.name] = (run / "refused").read_text().strip()
        elif (run / "config.json").is_file() and not missing(run):
            done[setting] = run
        else:
            absent.append(setting.name)
    plain = next(setting for setting in done if setting.kind == "plain")
    language = lineage(reading)
    truth = load_ground_truth(ground_truth_of(done[plain]), language)
    scores = {
        setting: score_run(setting.name, run, truth, language) for setting, run in done.items()
    }
    methods = [one for setting, one in scores.items() if setting.kind in ("method", "no image")]
    result = compare_chair([scores[plain], *methods], draws=draws, seed=seed)
    result["lineage"] = reading
    result["kinds"] = {setting.name: setting.kind for setting in done}
    result["plugins"] = {setting.name: setting.plugin for setting in done if setting.plugin}
    result["at recall"] = _at_recall(scores[plain], methods, draws, seed)
    result["random heads"] = _random_heads(scores, draws, seed)
    result["same as plain"] = _same(scores, plain)
    result["times"] = {setting.name: _times(run) for setting, run in done.items()}
    result["refused"], result["missing"] = refused, absent
    return result


def _arrays(run: RunScores, images: list[str]) -> Any:
    return np.array([run.counts[key] for key in images])


def _at_recall(
    plain: RunScores, methods: list[RunScores], draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Distances to plain captions cut to the same recall, with Holm's correction for object F1."""
    images = list(plain.counts)
    cut = np.array([plain.cut[key] for key in images])
    arrays = {run.name: _arrays(run, images) for run in methods}
    drawn = resample({**arrays, "frontier": cut}, draws, seed)
    frontier = (cut.sum(axis=0), drawn.pop("frontier"))
    found: dict[str, dict[str, Estimate]] = {
        name: {
            rate: frontier_distance(rate, frontier, (counts.sum(axis=0), drawn[name]))
            for rate in AT_RECALL
        }
        for name, counts in arrays.items()
    }
    corrected = {
        rate: holm({name: one[rate].p for name, one in found.items()}) for rate in AT_RECALL
    }
    return {
        name: {rate: {**one[rate].to_dict(), "holm": corrected[rate][name]} for rate in AT_RECALL}
        for name, one in found.items()
    }


def _random_heads(
    scores: Mapping[Setting, RunScores], draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    """For each controlled run its random heads: figures of all draws together, and differences.

    The draws are put together by adding up their counts, image by image.
    """
    named = {setting.name: run for setting, run in scores.items()}
    result: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[RunScores]] = {}
    for setting, run in scores.items():
        if setting.controls in named:
            groups.setdefault(setting.controls, []).append(run)
    plain = next(run for setting, run in scores.items() if setting.kind == "plain")
    images = list(plain.counts)
    for name, group in groups.items():
        arrays = {
            "method": _arrays(named[name], images),
            "random": np.sum([_arrays(run, images) for run in group], axis=0),
            "plain": _arrays(plain, images),
        }
        drawn = resample(arrays, draws, seed)
        sums = {key: counts.sum(axis=0) for key, counts in arrays.items()}

        def between(first: str, second: str, sums: Any = sums, drawn: Any = drawn) -> Any:
            return {
                rate: differ(
                    partial(measure, name=rate),
                    (sums[first], sums[second]),
                    (drawn[first], drawn[second]),
                ).to_dict()
                for rate in COMPARED
            }

        result[name] = {
            "draws": len(group),
            "figures": {
                rate: float(measure(sums["random"], rate))
                for rate in (*COMPARED, "words", "repetition", "at_limit")
            },
            "random less plain": between("plain", "random"),
            "method less random": between("random", "method"),
        }
    corrected = {
        rate: holm({name: one["method less random"][rate]["p"] for name, one in result.items()})
        for rate in COMPARED
    }
    for name, one in result.items():
        one["holm"] = {rate: corrected[rate][name] for rate in COMPARED}
    return result


def _same(scores: Mapping[Setting, RunScores], plain: Setting) -> dict[str, float]:
    """Share of images with the very caption that the plain model gives."""
    texts = [caption.text for caption, _ in scores[plain].scored]
    return {
        setting.name: float(
            np.mean([one.text == text for (one, _), text in zip(run.scored, texts, strict=True)])
        )
        for setting, run in scores.items()
    }


def _times(run: Path) -> dict[str, float]:
    """Seconds that a run took, over all of its starts."""
    lines = [json.loads(line) for line in (run / "times.jsonl").read_text().splitlines()]
    return {kind: sum(line[kind] for line in lines) for kind in ("captions", "wall", "cpu")}
