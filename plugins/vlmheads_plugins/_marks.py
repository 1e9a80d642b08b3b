"""Marks on attention scores [B, H, Q, K] that several methods need."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


def chosen_heads(heads: tuple[tuple[int, int], ...], layer: int, like: Tensor) -> Tensor:
    """[H, 1, 1] True for those of a layer's heads that are among pairs (layer, head); () is all."""
    found = [not heads or (layer, head) in heads for head in range(like.shape[1])]
    return torch.tensor(found, device=like.device)[:, None, None]


def finite(scores: Tensor) -> Tensor:
    """Return scores that can be multiplied: a large negative number where one is masked.

    What is then added to a masked score leaves it masked.
    """
    return scores.clamp(min=-1e30)


def predicting_rows(request: Request, last: int, *, first: bool = True) -> Tensor:
    """[Q] True where one of the `last` rows predicts a new token, the first one or only later ones.

    The first new token is predicted by the last row of the prompt.
    """
    predicting = request.predicting_rows(last)
    if first:
        return predicting
    column = torch.arange(request.seen - last, request.seen, device=predicting.device)
    return predicting & (column >= request.prompt_length)


def image_gain(
    request: Request, owner: object, rows: Rows, gain: float, *, first: bool = True
) -> Tensor:
    """Give [B, 1, Q, K] `gain` for image tokens in rows that predict a token, 0 elsewhere.

    Without `first`, the row that predicts the first new token is left out.
    """

    def make() -> Tensor:
        predicting = predicting_rows(request, rows.editable.shape[1], first=first)
        place = rows.image_keys[:, None, None] & predicting[:, None]
        return place.to(rows.scores) * gain

    return request.once((id(owner), rows.image_keys.shape[1]), make)


def said(request: Request, rows: Rows) -> Tensor | None:
    """[Q, K] True for generated tokens in rows that predict a token after the first.

    None where there are none, as in the prefill of a prompt. Later keys than a row's own are marked
    too; that they are masked is for the scores to say.
    """
    if request.seen <= request.prompt_length:
        return None
    last, keys = rows.editable.shape[1], rows.image_keys.shape[1]
    later = predicting_rows(request, last, first=False)
    return later[:, None] & request.generated_keys(keys)
