"""Runs of POPE answers compared, with the questions of one image kept together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmheads_eval.pope.parsers import PARSERS, Parser
from vlmheads_eval.pope.questions import QuestionFile
from vlmheads_eval.pope.score import AnswerTable, figures, match_answers, outcomes, score_pope
from vlmheads_eval.statistics import (
    ALPHA,
    BETTER,
    DRAWS,
    SAME,
    WORSE,
    Array,
    Estimate,
    estimate,
    holm,
    resample,
)

MEASURES = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")
TESTED = ("accuracy", "f1")


def compare_pope(
    answers: Mapping[str, AnswerTable],
    files: Sequence[QuestionFile],
    parser: str = "strict",
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare runs with the first one by a paired bootstrap over images, not over questions.

    Differences of the mean over splits, with 95 % intervals; the p values of accuracy and of F1
    are corrected by Holm over methods, each measure by itself (`compare_benchmark` corrects over
    methods and figures together). A method is better (or worse) if one of the two is and the other
    is not the opposite.
    """
    chosen = PARSERS[parser]
    images = list(dict.fromkeys(q.image for file in files for q in file.questions))
    sums = {name: _by_image(table, files, images, chosen) for name, table in answers.items()}
    drawn = resample(sums, draws, seed)
    baseline, *methods = answers
    differences = _differences(baseline, methods, sums, drawn, chosen)
    corrected = {
        measure: holm({name: differences[name][measure].p for name in methods})
        for measure in TESTED
    }
    return {
        "task": "pope",
        "parser": parser,
        "images": len(images),
        "questions": sum(len(file.questions) for file in files),
        "baseline": baseline,
        "draws": draws,
        "seed": seed,
        "runs": [{"name": name, **score_pope(files, answers[name], parser)} for name in answers],
        "methods": [
            {
                "name": name,
                "verdict": _judge(differences[name], {m: corrected[m][name] for m in TESTED}),
                "difference": {m: found.to_dict() for m, found in differences[name].items()},
                "holm": {m: corrected[m][name] for m in TESTED},
            }
            for name in methods
        ],
    }


def _by_image(
    table: AnswerTable, files: Sequence[QuestionFile], images: Sequence[str], parser: Parser
) -> Array:
    """Return sums of outcomes [images, splits, columns of `Outcome`]."""
    rows = {image: row for row, image in enumerate(images)}
    first = outcomes(files[0].questions, match_answers(files[0], table), parser)
    sums = np.zeros((len(images), len(files), first.shape[1]), dtype=np.int64)
    for split, file in enumerate(files):
        found = outcomes(file.questions, match_answers(file, table), parser)
        at = [rows[question.image] for question in file.questions]
        np.add.at(sums, (at, split), found)
    return sums


def _differences(
    baseline: str,
    methods: Sequence[str],
    sums: Mapping[str, Array],
    drawn: Mapping[str, Array],
    parser: Parser,
) -> dict[str, dict[str, Estimate]]:
    sample = {name: figures(rows.sum(axis=0), parser) for name, rows in sums.items()}
    resampled = {name: figures(rows, parser) for name, rows in drawn.items()}
    return {
        name: {
            measure: estimate(
                (sample[name][measure] - sample[baseline][measure]).mean(),
                (resampled[name][measure] - resampled[baseline][measure]).mean(axis=-1),
            )
            for measure in MEASURES
        }
        for name in methods
    }


def _judge(difference: Mapping[str, Estimate], corrected: Mapping[str, float | None]) -> str:
    signs = set()
    for name in TESTED:
        value, p = difference[name].value, corrected[name]
        signs.add(0 if value is None or p is None or p >= ALPHA else (value > 0) - (value < 0))
    if signs <= {0, 1} and 1 in signs:
        return BETTER
    return WORSE if signs <= {0, -1} and -1 in signs else SAME
