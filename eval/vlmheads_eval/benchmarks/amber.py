"""AMBER's annotations, and the objects that a description names (Wang et al., 2023)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import read, read_text
from vlmheads_eval.records import nothing_in, read_records

SIMILAR = 0.8  # The reference equates words that are more similar than this.
GENERATIVE = "generative"
REPLIES = ("yes", "no")
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


class AmberItem(TypedDict):
    """One item of AMBER's annotations; `hallu` and a list as truth where it asks to describe."""

    id: int
    type: str
    truth: list[str] | str
    hallu: NotRequired[list[str]]


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


def load_amber(folder_or_file: Path) -> AmberTruth:
    """Read annotations.json, and relation.json and safe_words.txt in the same folder."""
    folder = folder_or_file if folder_or_file.is_dir() else folder_or_file.parent
    annotations = folder / "annotations.json" if folder_or_file.is_dir() else folder_or_file
    files = (annotations, folder / "relation.json", folder / "safe_words.txt")
    expected = "AMBER's annotations.json with relation.json and safe_words.txt in the same folder"
    listed: list[AmberItem] | dict[str, AmberItem] = read(
        annotations, list[AmberItem] | dict[str, AmberItem], expected
    )
    related: dict[str, list[str]] = read(files[1], dict[str, list[str]], expected)
    items: dict[int, AmberItem] = {}
    for item in listed.values() if isinstance(listed, dict) else listed:
        number, generative = item["id"], item["type"] == "generative"
        if number in items:
            raise VlmHeadsError(f"{annotations}: item {number} again", "every item once")
        lists = isinstance(item["truth"], list) and "hallu" in item
        if not (lists if generative else item["type"] in DIMENSIONS and item["truth"] in REPLIES):
            raise VlmHeadsError(
                f"{annotations}: item {number} of the type {item['type']!r}",
                "a known type; lists as truth and hallu of a generative item, yes or no of others",
            )
        items[number] = item
    safe = frozenset(read_text(files[2], expected).splitlines())
    return AmberTruth(items, related, safe, files)


def read_responses(path: Path) -> dict[int, str]:
    """Read records with `id` and `response` (or `caption`)."""
    responses: dict[int, str] = {}
    failed = 0
    record: _ResponseRecord
    for place, record in read_records(path, _ResponseRecord):
        if record.error:
            failed += 1
            continue
        number = record.question_id if record.id is None else record.id
        given = (record.response, record.caption, record.answer)
        text = next((one for one in given if one is not None), None)
        if number is None or text is None:
            raise VlmHeadsError(f"{place}: not a response", "a number as id, a string as response")
        if number in responses:
            raise VlmHeadsError(f"{place}: item {number} again", "one response per item")
        responses[number] = text
    if not responses:
        raise nothing_in(path, "response", failed)
    return responses


class _ResponseRecord(msgspec.Struct):
    """A line of responses; one with an error is an image that failed in `predict`."""

    id: int | None = None
    question_id: int | None = None
    response: str | None = None
    caption: str | None = None
    answer: str | None = None
    error: Any = None
