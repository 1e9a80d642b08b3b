"""Captions whose object words are marked as true or invented, for what learns from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmheads_eval.lineages import Lineage
from vlmheads_eval.marking import mention_spans

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MarkedCaption:
    """A caption with the places of its object words.

    Args:
        text: the caption.
        grounded: characters [start, end) of mentions of what is in the image.
        invented: characters [start, end) of mentions of what is not.
    """

    text: str
    grounded: tuple[tuple[int, int], ...]
    invented: tuple[tuple[int, int], ...]


def mark(text: str, truth: frozenset[str], lineage: Lineage) -> MarkedCaption:
    """Mark the mentions of a caption, as CHAIR reads it, against its image's categories."""
    kinds: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for mention in lineage.read(text).mentions:
        kinds[mention.node in truth] += mention_spans(text, (mention,))
    return MarkedCaption(text, tuple(kinds[True]), tuple(kinds[False]))


def mark_tokens(
    tokenizer: Any, captions: Sequence[MarkedCaption]
) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Return tokens [N, T] of captions, and which of them are grounded and invented words [N, T].

    Rows are padded behind. The tokenizer has to be a fast one, which knows places in the text.
    """
    import torch

    coded = tokenizer(
        [caption.text for caption in captions],
        add_special_tokens=False,
        return_offsets_mapping=True,
    )
    longest = max(1, *(len(row) for row in coded["input_ids"]))
    shape = (len(captions), longest)
    ids = torch.full(shape, tokenizer.pad_token_id or 0)
    marks = torch.zeros(2, *shape, dtype=torch.bool)
    for row, caption in enumerate(captions):
        tokens = coded["input_ids"][row]
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        for place, (start, end) in enumerate(coded["offset_mapping"][row]):
            for kind, spans in enumerate((caption.grounded, caption.invented)):
                marks[kind, row, place] = any(start < last and end > first for first, last in spans)
    return ids, marks[0], marks[1]
