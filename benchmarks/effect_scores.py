"""Scores of benchmarks/effect.py's runs: against plain, random heads and plain captions cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from effect_settings import Setting
from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.chair import compare_chair
from vlmheads_eval.compare.paired import (
    COMPARED,
    at_recall,
    corrected,
    differences,
    figures_of,
)
from vlmheads_eval.compare.runs import RunScores, pooled, score_run
from vlmheads_eval.records import read_captions
from vlmheads_eval.run_folder import ground_truth_of, missing


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
    language = get_variant(reading)
    first = next(run for setting, run in done.items() if setting.kind == "plain")
    truth = load_ground_truth(ground_truth_of(first), language)
    scores = {
        setting: score_run(setting.name, run, truth, language) for setting, run in done.items()
    }
    plain = next(run for setting, run in scores.items() if setting.kind == "plain")
    methods = [one for setting, one in scores.items() if setting.kind in ("method", "no image")]
    result = compare_chair([plain, *methods], draws=draws, seed=seed)
    for method in result["methods"]:
        del method["mcnemar"], method["notes"]
    result["variant"] = reading
    result["kinds"] = {setting.name: setting.kind for setting in done}
    changes = differences([(plain, run) for run in methods], draws=draws, seed=seed)
    names = [run.name for run in methods]
    result["differences"] = corrected(dict(zip(names, changes, strict=True)))
    result["at recall"] = corrected(at_recall(plain, methods, draws=draws, seed=seed))
    result["random heads"] = _random_heads(scores, draws, seed)
    texts = {setting.name: _texts(run) for setting, run in done.items()}
    same = texts[plain.name]
    result["same as plain"] = {
        name: float(np.mean([text == same[image] for image, text in one.items()]))
        for name, one in texts.items()
    }
    result["times"] = {setting.name: _times(run) for setting, run in done.items()}
    result["refused"], result["missing"] = refused, absent
    return result


def _texts(run: Path) -> dict[str, str]:
    return {str(caption.image_id): caption.text for caption in read_captions(run)}


def _random_heads(
    scores: Mapping[Setting, RunScores], draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    """For each controlled run its random heads: figures of all draws together, and differences."""
    named = {setting.name: run for setting, run in scores.items()}
    groups: dict[str, list[RunScores]] = {}
    for setting, run in scores.items():
        if setting.controls in named:
            groups.setdefault(setting.controls, []).append(run)
    controls = {name: pooled(f"{name}, random heads", group) for name, group in groups.items()}
    changes = differences(
        [(run, named[name]) for name, run in controls.items()], draws=draws, seed=seed
    )
    against = corrected(dict(zip(controls, changes, strict=True)))
    return {
        name: {
            "draws": len(groups[name]),
            "figures": figures_of(run, (*COMPARED, "words", "repetition", "at_limit")),
            "method less random": against[name],
        }
        for name, run in controls.items()
    }


def _times(run: Path) -> dict[str, float]:
    """Seconds that a run took, over all of its starts."""
    lines = [json.loads(line) for line in (run / "times.jsonl").read_text().splitlines()]
    return {kind: sum(line[kind] for line in lines) for kind in ("captions", "wall", "cpu")}
