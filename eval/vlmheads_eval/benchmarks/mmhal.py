"""MMHal-Bench: 96 open questions that a judge rates (Sun et al., 2023). Files only, no judge."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.files import read_table, table_files
from vlmheads_eval.benchmarks.judged import Ratings, Request
from vlmheads_eval.benchmarks.record import Answers, Item, Questions, Source
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.records import inside
from vlmheads_eval.statistics import estimate, resample

TYPES = "attribute adversarial comparison counting relation environment holistic other".split()
HALLUCINATED_BELOW = 3
HIGHEST = 6
# Our wording; the published one is under another licence, and is passed as --template.
TEMPLATE = """\
Rate an assistant's answer to a question about an image that you cannot see.

Objects in the image: {image_content}
Question: {question}
A correct answer: {gt_answer}
The assistant's answer: {answer}

An answer hallucinates if it states something that the objects and the correct answer contradict \
or do not support. Give your reasons, then end with one line "Rating: N", where N is
6 if it is correct, detailed and insightful, 5 if it is correct and detailed, 4 if it is correct, \
3 if it does not hallucinate but says little,
2, 1 or 0 if it hallucinates and is otherwise informative, hardly informative or useless.
"""
_REFUSAL = re.compile(
    r"\b(?:sorry|unable to|as an ai|(?:can ?not|can't|cannot) (?:see|view|tell|determine|answer"
    r"|provide|identify))\b"
)


def load(source: Source) -> Questions:
    """Read MMHal-Bench's JSON file or a table with its columns, in the order that it has there."""
    files = table_files(source.path)
    items = []
    for number, row in enumerate(read_table(source, files)):
        picture = row.values.get("image")
        image = picture.file if picture else None
        address = row.values.get("image_src")
        if image is None and source.images and isinstance(address, str):
            image = inside(source.images, address.rpartition("/")[2], row.place)
        content = row.values.get("image_content") or []
        if isinstance(content, str):
            content = [content]
        if not isinstance(content, list | tuple):
            raise VlmHeadsError(f"{row.place}: image_content {str(content)[:40]!r}", "names")
        kind = row.text("question_type").strip().lower()
        if kind not in TYPES:
            raise VlmHeadsError(f"{row.place}: question_type {kind!r}", " or ".join(TYPES))
        facts = {
            "gt_answer": row.text("gt_answer"),
            "image_content": ", ".join(str(name) for name in content),
        }
        key = f"{number:02d}/{kind}"
        items.append(Item(key, row.text("question"), "", key, kind, image, facts))
    if not items:
        raise VlmHeadsError(f"{source.path} holds no question", "MMHal-Bench's records")
    return Questions(tuple(items), files)


def requests(items: Sequence[Item], answers: Answers) -> list[Request]:
    """Return what to ask a judge about each answer."""
    return [
        Request(
            item.key, {**item.facts, "question": item.question, "answer": answers[item.key].text}
        )
        for item in items
    ]


class Unjudged(NamedTuple):
    """What can be said of answers without a judge."""

    answers: int
    words: float
    refusals: float
    unnamed_objects: float


def unjudged(items: Sequence[Item], answers: Answers) -> Unjudged:
    """Return mean length, share of refusals, and COCO objects per answer that the record lacks.

    An object counts if neither `image_content` nor `gt_answer` has a word for it. The former are
    detector names of some objects only, so this is no hallucination rate.
    """
    read = get_variant("pattern").read
    lengths, refusals, unnamed = [], [], []
    for item in items:
        text = answers[item.key].text
        given = read(f"{item.facts['image_content'].lower()}. {item.facts['gt_answer']}")
        known = {mention.node for mention in given.mentions}
        lengths.append(len(text.split()))
        refusals.append(bool(_REFUSAL.search(text.lower().replace("\u2019", "'"))))
        unnamed.append(len({mention.node for mention in read(text).mentions} - known))
    return Unjudged(len(items), *(float(np.mean(one)) for one in (lengths, refusals, unnamed)))


def rating(text: str) -> int | None:
    """Return the rating in a judge's text: the only one of "rating: 0" to "rating: 6" in it.

    None where there is none or several; the official script takes that for 0.
    """
    lower = text.lower()
    found = [number for number in range(HIGHEST + 1) if f"rating: {number}" in lower]
    return found[0] if len(found) == 1 else None


def score_ratings(ratings: Ratings, *, draws: int = 2_000, seed: int = 0) -> dict[str, Any]:
    """Return the mean rating, hallucination rate and informativeness, overall and by type.

    A text without a single rating counts as 0, as in the official script, and as unparsed.
    Intervals are over draws of questions.
    """
    kinds = [key.rpartition("/")[2] for key in ratings.texts]
    unknown = set(kinds) - set(TYPES)
    if unknown:
        raise VlmHeadsError(f"question type {min(unknown)!r}", "requests of MMHal-Bench")
    read = [rating(text) for text in ratings.texts.values()]
    scores = np.array([0 if one is None else one for one in read], float)
    informative = np.where(scores >= HALLUCINATED_BELOW, scores - HALLUCINATED_BELOW, scores) / 3
    columns = {
        "average rating": scores,
        "hallucination rate": (scores < HALLUCINATED_BELOW).astype(float),
        "informativeness": informative,
    }
    table = np.stack(list(columns.values()), axis=1)
    drawn = resample({"run": table}, draws, seed)["run"] / len(table)
    figures: dict[str, Any] = {}
    for at, name in enumerate(columns):
        found = estimate(table[:, at].mean(), drawn[:, at])
        unit = "" if name == "average rating" else "%"
        figures[name] = _figure(found.value, found.low, found.high, len(table), unit)
    for kind in TYPES:
        chosen = scores[[one == kind for one in kinds]]
        if len(chosen):
            figures[f"{kind} rating"] = _figure(float(chosen.mean()), None, None, len(chosen), "")
    return {
        "benchmark": "mmhal",
        "judge": ratings.judge,
        "requests_sha256": ratings.requests,
        "questions": len(scores),
        "by_type": dict(Counter(kinds)),
        "unparsed": sum(one is None for one in read) / len(read),
        "figures": figures,
    }


def _figure(
    value: float | None, low: float | None, high: float | None, of: int, unit: str
) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "of": of, "unit": unit}
