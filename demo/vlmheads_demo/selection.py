"""What a visitor has chosen to look at: a word, and one head or the mean of those that look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_demo.services.result import Result


@dataclass(frozen=True)
class Selection:
    """A word of a caption, seen through one head or through its vision-aware heads.

    Args:
        caption: which caption of the run.
        word: which of its words; None where it names no object.
        layer: of the head; None for the mean of the word's vision-aware heads.
        head: likewise.
    """

    caption: int = 0
    word: int | None = None
    layer: int | None = None
    head: int | None = None

    @classmethod
    def of(cls, result: Result, given: Mapping[str, Any]) -> Selection:
        """Read a selection that came from the page or a client.

        Raises:
            VlmHeadsError: a caption, word or head that the run does not have.
        """
        captions = len(result.captions)
        caption = _index(given.get("caption", 0), captions, "caption")
        words = result.captions[caption].support.words
        word = given.get("word")
        layer, head = given.get("layer"), given.get("head")
        if (layer is None) != (head is None):
            raise VlmHeadsError(f"layer {layer!r} and head {head!r}", "both, or neither")
        return cls(
            caption,
            None if word is None else _index(word, len(words), "word"),
            None if layer is None else _index(layer, result.geometry.layers, "layer"),
            None if head is None else _index(head, result.geometry.heads, "head"),
        )

    @classmethod
    def first(cls, result: Result) -> Selection:
        """Return what a run is opened with: the object word that is supported least."""
        for caption, said in enumerate(result.captions):
            objects = [
                (word.score, number)
                for number, word in enumerate(said.support.words)
                if word.object is not None
            ]
            if objects:
                return cls(caption, min(objects)[1])
        return cls()


def _index(value: Any, count: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise VlmHeadsError(f"{what} {str(value)[:20]!r}", f"a number from 0 to {count - 1}")
    return value
