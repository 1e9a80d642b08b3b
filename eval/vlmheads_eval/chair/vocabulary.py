"""Vocabularies of other categories than COCO's, from the user's own file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import read
from vlmheads_eval.chair.mentions import Vocabulary, vocabulary_of

EXPECTED = (
    '{"categories": {name: [word, ...]}} and optionally "doubles": {"two words": word}; a COCO, '
    'LVIS or Objects365 file with "categories": [{"name": ..., "synonyms": [...]}, ...]; or a list '
    "of names"
)


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a file of other categories.

    A category's own name always counts. Names as data sets write them are read as people write
    them: "alarm_clock", "bow_(weapon)", "Cabinet/shelf". A word that two categories share belongs
    to the first.

    Args:
        path: JSON of one of three forms: `{"categories": {name: [word, ...]}, "doubles": {...}}`; a
            data set's annotation file, whose categories have a "name" and perhaps "synonyms"; or a
            list of names.

    Raises:
        VlmHeadsError: any other content, or no category in it.
    """
    content: Any = read(path, Any, EXPECTED)
    try:
        vocabulary = _vocabulary(content)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise VlmHeadsError(f"{path} is not a vocabulary ({error})", EXPECTED) from error
    if not vocabulary.nodes:
        raise VlmHeadsError(f"{path} names no category", EXPECTED)
    return vocabulary


def _vocabulary(content: Any) -> Vocabulary:
    categories = content if isinstance(content, list) else content["categories"]
    if not isinstance(categories, list):
        return vocabulary_of(content)
    nodes: dict[str, str] = {}
    named = [_named(category) for category in categories]
    for name, _ in named:
        for word in spellings(name):
            nodes.setdefault(word, name)
    for name, synonyms in named:
        for synonym in synonyms:
            for word in spellings(synonym):
                nodes.setdefault(word, name)
    return Vocabulary(nodes)


def _named(category: Any) -> tuple[str, list[str]]:
    if isinstance(category, str):
        return category, []
    name, synonyms = category["name"], category.get("synonyms", [])
    if not isinstance(name, str) or not isinstance(synonyms, list):
        raise TypeError(f"a category {name!r} with synonyms {synonyms!r}")
    return name, [str(synonym) for synonym in synonyms]


def spellings(name: str) -> Iterator[str]:
    """Yield a data set's name of a category as people write it, in lower case."""
    plain = re.sub(r"\([^)]*\)", " ", name.replace("_", " ")).lower()
    for part in plain.split("/"):
        if words := part.split():
            yield " ".join(words)
