"""The vocabulary head on hidden states ("logit lens"), a few positions at a time.

All logits of every layer and image token, [layers, positions, V], are 2.4 GB for LLaVA-1.5 in
float32. What the scores need of them is one column per token that was said, or the largest few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmheads.precision import at_least_float32

Head = Callable[[Tensor], Tensor]  # States [n, E] -> logits [n, V].

LOGITS = 1 << 22  # Logits in memory at once: 16 MB in float32.


@dataclass(frozen=True)
class Lens:
    """A vocabulary head, run on a few states at a time.

    Args:
        head: from states [n, E] to logits [n, V], without the norm in front of it.
        size: V.
    """

    head: Head
    size: int

    def logits(self, states: Tensor) -> Iterator[Tensor]:
        """Yield the logits of a few states after the other, as float32 at least."""
        step = max(1, LOGITS // self.size)
        for start in range(0, len(states), step):
            yield at_least_float32(self.head(states[start : start + step]))


def lens_columns(lens: Lens, states: Tensor, tokens: Tensor, scale: float = 1.0) -> Tensor:
    """Return softmax(scale · W h)[o] of each state h and token o, [P, T].

    Args:
        lens: the vocabulary head W.
        states: [P, E].
        tokens: [T] token ids.
        scale: what the logits are multiplied by.
    """
    parts = [
        (scaled[:, tokens] - scaled.logsumexp(dim=-1, keepdim=True)).exp()
        for scaled in (logits * scale for logits in lens.logits(states))
    ]
    return torch.cat(parts) if parts else torch.zeros(0, len(tokens), device=states.device)


def lens_best(lens: Lens, states: Tensor, tokens: Tensor, keep: int) -> Tensor:
    """Return the largest probability over states that the lens gives each token, [T].

    Only the `keep` largest logits of a state count, renormalised: any other token has 0 there.

    Args:
        lens: the vocabulary head.
        states: [P, E].
        tokens: [T] token ids.
        keep: how many logits of each state count.
    """
    most = torch.zeros(len(tokens), device=states.device)
    for logits in lens.logits(states):
        said = logits[:, tokens]
        # The largest logit alone bounds the probability, and finding the others costs most.
        bound = (said - logits.amax(dim=-1, keepdim=True)).exp()
        more = (bound > most).any(dim=-1)
        best = logits[more].topk(min(keep, logits.shape[-1]), dim=-1).values
        chance = (said[more] - best.logsumexp(dim=-1, keepdim=True)).exp()
        chance = chance * (said[more] >= best[:, -1:])
        most = torch.cat([most.to(chance)[None], chance]).amax(dim=0)
    return most
