"""What methods share that edit the logits of the next token."""

from __future__ import annotations

import math

from torch import Tensor, where

from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request

# How far every excluded token lies below every other. It is 0 in a softmax in float32 even at a
# temperature of 9, and what is as far down still differs by 0.0001.
GAP = 1000.0


def contrast(
    request: Request, logits: Tensor, stream: str, strength: float, cutoff: float
) -> Tensor:
    """Push the logits away from those of another stream: (1 + strength) l − strength l_other.

    With log-probabilities in place of logits it is the same, up to a constant that `settle` takes
    out.

    Args:
        request: the running generation.
        logits: [B, V] of the model itself.
        stream: the name of the other stream; it is not looked at where the strength is 0.
        strength: of the contrast.
        cutoff: excludes tokens whose probability is below this share of the highest; 0 none.
    """
    edited = plain = at_least_float32(logits)
    if strength:
        edited = plain + strength * (plain - at_least_float32(request.streams[stream]))
    return settle(request, edited, logits, plausible(plain, cutoff))


def plausible(logits: Tensor, cutoff: float) -> Tensor | None:
    """Mark tokens [B, V] that are at least `cutoff` times as likely as the likeliest; None is all.

    Args:
        logits: [B, V] of the model itself.
        cutoff: from 0 to 1.
    """
    if cutoff == 0:
        return None
    return logits >= logits.amax(dim=-1, keepdim=True) + math.log(cutoff)


def settle(request: Request, edited: Tensor, logits: Tensor, kept: Tensor | None = None) -> Tensor:
    """Make edited logits such that the logits processors of generate() compose with them.

    The result has the level of the plain logits, the same logsumexp, so that a token's logit moves
    by as much as its log-probability: a repetition penalty depends on the level. Excluded tokens
    keep the order of their plain logits, `GAP` or more below all others, so that there is a next
    best one where a constraint forbids all that are kept. The result is float32 or more, whatever
    the model runs in, as generate() makes it anyway: in half precision neither survives.

    Args:
        request: the running generation; rows without an image get the plain logits.
        edited: [B, V] logits after a method.
        logits: [B, V] logits before it.
        kept: [B, V] False for tokens that the method excludes; None excludes none.
    """
    plain = at_least_float32(logits)
    allowed = edited if kept is None else edited.masked_fill(~kept, -math.inf)
    allowed = allowed - allowed.logsumexp(dim=-1, keepdim=True)
    settled = allowed + plain.logsumexp(dim=-1, keepdim=True)
    if kept is not None:
        lowest = settled.masked_fill(~kept, math.inf).amin(dim=-1, keepdim=True)
        highest = plain.masked_fill(kept, -math.inf).amax(dim=-1, keepdim=True)
        drop = (highest - lowest).clamp(min=0) + GAP
        settled = where(kept, settled, plain - drop)
    return where(request.has_image.to(logits.device)[:, None], settled, plain)
