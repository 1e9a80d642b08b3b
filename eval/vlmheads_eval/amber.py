"""AMBER: hallucinated objects in descriptions, and yes/no questions (Wang et al., 2023)."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.records import read_records

SIMILAR = 0.8  # The reference equates words that are more similar than this.
# The reference starts every denominator here, which moves single figures by up to 0.1.
START = 0.001
F1_GUARD = {"existence": 0.001}
# Question type -> the dimensions it counts towards; every question counts towards "all".
DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-relation": ("relation",),
    "relation": ("relation",),
}
Similarity = Callable[[str, str], float]


@dataclass(frozen=True)
class AmberTruth:
    """AMBER's annotations by item id, its related words, its safe words, and its files."""

    items: Mapping[int, Mapping[str, Any]]
    related: Mapping[str, Sequence[str]]
    safe: frozenset[str]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class GenerativeCounts:
    """What one description adds: nouns, and present and likely objects with those named."""

    nouns: int
    hallucinated: int
    truth: int
    covered: int
    likely: int
    likely_named: int


def similarity(backend: str) -> Similarity:
    """Return a word similarity: "exact", or "spacy:MODEL" for a model with vectors.

    The reference uses spaCy's en_core_web_lg. Results name the backend, because it changes them.
    """
    if backend == "exact":
        return lambda first, second: float(first == second)
    kind, _, model = backend.partition(":")
    if kind != "spacy" or not model:
        raise VlmHeadsError(f"similarity {backend!r}", '"exact" or "spacy:MODEL"')
    try:
        import spacy  # type: ignore[import-not-found, unused-ignore]

        pipeline = spacy.load(model)
    except (ImportError, OSError) as error:
        raise VlmHeadsError(
            f"spaCy model {model} is not installed",
            "spaCy and the model",
            "pip install spacy and the model, or use --similarity exact",
        ) from error
    return lambda first, second: float(pipeline(first).similarity(pipeline(second)))


def nouns(text: str) -> list[str]:
    """Return the noun lemmas of a description, with NLTK's tokeniser, tagger and WordNet."""
    import nltk

    from vlmheads_eval.compat import lemmatiser, tagger, with_nltk_data

    words = with_nltk_data(lambda: nltk.word_tokenize(text), "punkt_tab")
    tagged = tagger().tag(words)
    lemmatise = lemmatiser().lemmatize
    return [lemmatise(word) for word, tag in tagged if tag.startswith("NN")]


def score_description(
    response: str, item: Mapping[str, Any], truth: AmberTruth, alike: Similarity
) -> GenerativeCounts:
    """Return how many present, likely and other objects a description names.

    Only words in AMBER's table count. A noun that equals or resembles an object in the image, or a
    word related to one, is correct; one that equals or resembles a likely object counts for that
    object; nouns that are neither correct nor safe words are hallucinated.
    """
    known = {word for name, others in truth.related.items() for word in (name, *others)}
    there, likely = _Named(item["truth"], truth.related), _Named(item["hallu"], truth.related)
    counted = [noun for noun in nouns(response) if noun in known]
    hallucinated = 0
    for noun in counted:
        if noun in truth.safe or there.same(noun):
            continue
        likely.same(noun)
        likely.resembling(noun, alike)
        hallucinated += not there.resembling(noun, alike)
    return GenerativeCounts(
        len(counted), hallucinated, len(there.hit), sum(there.hit), len(likely.hit), sum(likely.hit)
    )


class _Named:
    """The objects of an item that a description has named so far, directly or by a related word."""

    def __init__(self, names: Sequence[str], related: Mapping[str, Sequence[str]]) -> None:
        self.hit = [False] * len(names)
        # Related words come first, as in the reference; the first match decides.
        self._words = [
            *((word, owner) for owner, name in enumerate(names) for word in related.get(name, ())),
            *((name, owner) for owner, name in enumerate(names)),
        ]

    def same(self, noun: str) -> bool:
        return self._mark(lambda word: word == noun)

    def resembling(self, noun: str, alike: Similarity) -> bool:
        return self._mark(lambda word: alike(noun, word) > SIMILAR)

    def _mark(self, fits: Callable[[str], bool]) -> bool:
        for word, owner in self._words:
            if fits(word):
                self.hit[owner] = True
                return True
        return False


def score_amber(
    responses: Mapping[int, str], truth: AmberTruth, backend: str = "exact"
) -> dict[str, Any]:
    """Return AMBER's figures in percent, rounded as in the reference.

    "generative": CHAIR, Cover, Hal, Cog; "discriminative": for all questions and every dimension
    accuracy, precision, recall and F1 with "No" as the positive class, and the share of answers
    that are neither exactly "Yes" nor "No". A part without responses is None.
    """
    unknown = sorted(set(responses) - set(truth.items))
    if unknown:
        raise VlmHeadsError(f"response to item {unknown[0]}", "an id of the annotations")
    alike = similarity(backend)
    descriptions: list[GenerativeCounts] = []
    answers: list[tuple[str, str, str]] = []
    for number, response in responses.items():
        item = truth.items[number]
        if item["type"] == "generative":
            descriptions.append(score_description(response, item, truth, alike))
        else:
            answers.append((item["type"], item["truth"], response))
    return {
        "similarity": backend,
        "generative": _generative(descriptions) if descriptions else None,
        "discriminative": _discriminative(answers) if answers else None,
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


def _discriminative(answers: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for dimension in (
        "all",
        *dict.fromkeys(name for names in DIMENSIONS.values() for name in names),
    ):
        kinds = [kind for kind, names in DIMENSIONS.items() if dimension in names]
        chosen = [answer for answer in answers if dimension == "all" or answer[0] in kinds]
        # The reference sums the counters of a dimension's parts, each with its own start.
        start = START * (3 if dimension == "attribute" else 1)
        result[dimension] = _answers(chosen, start, F1_GUARD.get(dimension, 0.0001))
    return result


def _answers(answers: Sequence[tuple[str, str, str]], start: float, guard: float) -> dict[str, Any]:
    count = Counter((truth, response) for _, truth, response in answers)
    right_no = count["no", "No"]
    precision = _percent(right_no, sum(n for (_, said), n in count.items() if said == "No") + start)
    recall = _percent(right_no, sum(n for (truth, _), n in count.items() if truth != "yes") + start)
    both = precision / 100 + recall / 100 + guard
    odd = sum(n for (_, said), n in count.items() if said not in ("Yes", "No"))
    return {
        "questions": len(answers),
        "accuracy": _percent(count["yes", "Yes"] + right_no, len(answers) + start),
        "precision": precision,
        "recall": recall,
        "f1": round(2 * (precision / 100) * (recall / 100) / both * 100, 1),
        "unparsed": odd / len(answers) if answers else None,
    }


def load_amber(folder_or_file: Path) -> AmberTruth:
    """Read annotations.json, and relation.json and safe_words.txt in the same folder."""
    folder = folder_or_file if folder_or_file.is_dir() else folder_or_file.parent
    annotations = folder / "annotations.json" if folder_or_file.is_dir() else folder_or_file
    files = (annotations, folder / "relation.json", folder / "safe_words.txt")
    try:
        items, related = (json.loads(file.read_text("utf-8")) for file in files[:2])
        safe = files[2].read_text("utf-8").split("\n")
        records = items.values() if isinstance(items, dict) else items
        by_id = {int(item["id"]): item for item in records}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VlmHeadsError(
            f"{annotations}: not AMBER annotations ({error})",
            "annotations.json with relation.json and safe_words.txt in the same folder",
        ) from error
    return AmberTruth(by_id, related, frozenset(safe), files)


def read_responses(path: Path) -> dict[int, str]:
    """Read records with `id` and `response` (or `caption`)."""
    responses: dict[int, str] = {}
    for place, record in read_records(path):
        if record.get("error"):
            continue
        number = record.get("id", record.get("question_id"))
        text = record.get("response", record.get("caption", record.get("answer")))
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(text, str):
            raise VlmHeadsError(f"{place}: not a response", "a number as id, a string as response")
        if number in responses:
            raise VlmHeadsError(f"{place}: item {number} again", "one response per item")
        responses[number] = text
    return responses
