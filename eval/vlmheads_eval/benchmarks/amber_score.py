"""AMBER's figures as its script prints them, rounding and starting counters included."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.amber import (
    DIMENSIONS,
    GENERATIVE,
    AmberTruth,
    GenerativeCounts,
    score_description,
    similarity,
)
from vlmheads_eval.benchmarks.readings import exactly, sentence
from vlmheads_eval.pope.parsers import Reply

# The reference starts every denominator here, which moves single figures by up to 0.1.
START = 0.001
F1_GUARD = {"existence": 0.001}
NAMES = ("all", *dict.fromkeys(name for names in DIMENSIONS.values() for name in names))
READ_BY: Mapping[str, Callable[[str], Reply | None]] = {"official": exactly, "sentence": sentence}


def score_amber(
    responses: Mapping[int, str], truth: AmberTruth, backend: str = "exact"
) -> dict[str, Any]:
    """Return AMBER's figures in percent, rounded as in the reference.

    "generative": CHAIR, Cover, Hal, Cog; "discriminative": for all questions and every dimension
    accuracy, precision, recall and F1 with "No" as the positive class, and the share of answers
    that are neither exactly "Yes" nor "No"; "sentences": the same with every answer read as a
    sentence; "floors": the same for constant answers; "amber_score": the mean of 100 - CHAIR and
    F1. A part without responses is None.

    Args:
        responses: item id -> response.
        truth: the annotations.
        backend: which words count as the same; see `similarity`.
    """
    unknown = sorted(set(responses) - set(truth.items))
    if unknown:
        raise VlmHeadsError(f"response to item {unknown[0]}", "an id of the annotations")
    descriptions: list[GenerativeCounts] = []
    answers: list[tuple[str, str, str]] = []
    alike = similarity(backend)
    for number, response in responses.items():
        item = truth.items[number]
        if item["type"] == GENERATIVE:
            descriptions.append(score_description(response, item, truth, alike))
        else:
            answers.append((item["type"], item["truth"], response))
    constants = {f"always {word.lower()}": word for word in ("Yes", "No")}
    generative = _generative(descriptions) if descriptions else None
    discriminative = _discriminative(answers, "official") if answers else None
    score = None
    if generative and discriminative:
        score = round((100 - generative["CHAIR"] + discriminative["all"]["f1"]) / 2, 2)
    return {
        "similarity": backend,
        "generative": generative,
        "discriminative": discriminative,
        "amber_score": score,
        "sentences": _discriminative(answers, "sentence") if answers else None,
        "floors": {
            name: _discriminative([(kind, label, word) for kind, label, _ in answers], "official")
            for name, word in constants.items()
        }
        if answers
        else None,
    }


def _percent(score: float, number: float) -> float:
    return round(score / number * 100, 1)


def _generative(counts: Sequence[GenerativeCounts]) -> dict[str, float]:
    def total(name: str) -> int:
        return sum(getattr(count, name) for count in counts)

    clean = sum(count.hallucinated == 0 for count in counts)
    return {
        "descriptions": len(counts),
        "CHAIR": _percent(total("hallucinated"), total("nouns") + START),
        "Cover": _percent(total("covered"), total("truth") + START),
        "Hal": round(100 - clean / (len(counts) + START) * 100, 1),
        "Cog": _percent(total("likely_named"), total("likely") + START),
    }


def _discriminative(answers: Sequence[tuple[str, str, str]], reading: str) -> dict[str, Any]:
    read = READ_BY[reading]
    said = [(kind, label, read(response)) for kind, label, response in answers]
    result: dict[str, Any] = {}
    for dimension in NAMES:
        kinds = [kind for kind, names in DIMENSIONS.items() if dimension in names]
        chosen = [answer for answer in said if dimension == "all" or answer[0] in kinds]
        # The reference sums the counters of a dimension's parts, each with its own start.
        start = START * (3 if dimension == "attribute" else 1)
        result[dimension] = _answers(chosen, start, F1_GUARD.get(dimension, 0.0001))
    return result


def _answers(
    answers: Sequence[tuple[str, str, Reply | None]], start: float, guard: float
) -> dict[str, Any]:
    count = Counter((truth, reply) for _, truth, reply in answers)
    right_no = count["no", "no"]
    precision = _percent(right_no, sum(n for (_, said), n in count.items() if said == "no") + start)
    recall = _percent(right_no, sum(n for (truth, _), n in count.items() if truth != "yes") + start)
    both = precision / 100 + recall / 100 + guard
    odd = sum(n for (_, said), n in count.items() if said is None)
    return {
        "questions": len(answers),
        "accuracy": _percent(count["yes", "yes"] + right_no, len(answers) + start),
        "precision": precision,
        "recall": recall,
        "f1": round(2 * (precision / 100) * (recall / 100) / both * 100, 1),
        "unparsed": odd / len(answers) if answers else None,
    }
