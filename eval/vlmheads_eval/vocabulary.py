"""The objects that are counted: which words stand for which category."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError


@dataclass(frozen=True)
class Vocabulary:
    """Words of categories, and word pairs that are read as one word.

    Args:
        nodes: word -> category ("puppy" -> "dog"); a word may hold spaces.
        doubles: two words -> the word that they are read as ("bow tie" -> "tie"). A value that is
            no word of `nodes` keeps the pair from being counted ("home plate").
    """

    nodes: Mapping[str, str]
    doubles: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def first_words(self) -> frozenset[str]:
        """The words that a pair can begin with."""
        return frozenset(double.partition(" ")[0] for double in self.doubles)

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories in the order of the table."""
        return tuple(dict.fromkeys(self.nodes.values()))


@cache
def coco_vocabulary() -> Vocabulary:
    """Return CHAIR's own table: 80 COCO categories, 403 words, 55 pairs, typing errors included."""
    text = files("vlmheads_eval").joinpath("data/coco_objects.json").read_text("utf-8")
    return _from_table(json.loads(text))


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a table of other categories: `{"categories": {name: [word, ...]}, "doubles": {...}}`.

    A category's own name always stands for it. Raises VlmHeadsError for a file of another shape.
    """
    expected = '{"categories": {name: [word, ...]}} and optionally "doubles": {"two words": word}'
    try:
        table = json.loads(path.read_text("utf-8"))
        vocabulary = _from_table(table)
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise VlmHeadsError(f"{path} is no vocabulary ({error})", expected) from error
    if not vocabulary.nodes:
        raise VlmHeadsError(f"{path} names no category", expected)
    return vocabulary


def _from_table(table: dict[str, Any]) -> Vocabulary:
    nodes: dict[str, str] = {}
    for category, words in table["categories"].items():
        if isinstance(words, str):
            raise TypeError(f"the words of {category!r} are one string")
        nodes.setdefault(category, category)
        nodes.update(dict.fromkeys(words, category))
    return Vocabulary(nodes, dict(table.get("doubles", {})))
