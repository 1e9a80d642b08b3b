"""What the model would have said at each token of a caption, with the picture and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from vlmheads.grounding.candidates import Candidates
from vlmheads.grounding.measure import Grounding
from vlmheads.grounding.words import token_spans

SHOWN = 5
END = "(end)"


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a caption, and the likeliest tokens in the place of each.

    Args:
        ids: [T] token ids.
        texts: what each stands for, as it is shown.
        spans: the characters of the caption that each stands for.
        log_probability: [T] by the plain model with the picture.
        log_probability_without: [T] by the plain model without the picture.
        seeing: candidates of the plain model with the picture, [1, T, K].
        blind: those without the picture.
        names: what every candidate stands for, by its id.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    log_probability: Tensor
    log_probability_without: Tensor
    seeing: Candidates
    blind: Candidates
    names: dict[int, str]

    def gain(self, token: int) -> float:
        """By how much the picture raises the log-probability of a token, in nats."""
        return float(self.log_probability[token] - self.log_probability_without[token])

    def at(self, start: int, end: int) -> tuple[int, ...]:
        """Return the tokens that stand for some of the characters [start, end)."""
        spans = enumerate(self.spans)
        return tuple(number for number, (a, b) in spans if a < end and b > start)


def read_tokens(
    processor: Any,
    ids: Sequence[int],
    text: str,
    found: Grounding,
    applied: Candidates | None,
) -> Tokens:
    """Lay out what was measured at the tokens of one caption.

    Args:
        processor: the model's.
        ids: the tokens of the caption.
        text: the caption.
        found: what `grounding` measured at them, with candidates.
        applied: what was kept of the generation under a method, whose candidates are named, too.
    """
    assert found.candidates is not None
    seeing, blind = found.candidates
    decode = partial(processor.batch_decode, skip_special_tokens=True)
    special = frozenset(processor.tokenizer.all_special_ids)
    parts = [one.ids for one in (seeing, blind, applied) if one is not None]
    known = {int(token) for part in parts for token in part.flatten().tolist()} | set(ids)
    names = {token: token_text(processor.tokenizer, token) for token in known}
    names |= dict.fromkeys(special & known, END)
    return Tokens(
        tuple(ids),
        tuple(names[token] for token in ids),
        tuple(token_spans(ids, text, decode, special)),
        found.log_probability[0],
        found.log_probability_without[0],
        seeing,
        blind,
        names,
    )


def token_text(tokenizer: Any, token: int) -> str:
    """Return what a token stands for, as it is shown: without white space, and never empty."""
    text: str = tokenizer.decode([token])
    if text.strip():
        return text.strip()
    piece = tokenizer.convert_ids_to_tokens(token)
    return repr(text)[1:-1] if text else str(piece)
