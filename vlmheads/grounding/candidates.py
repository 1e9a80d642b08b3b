"""The likeliest next tokens before each token of an answer: of a pass, or of a generation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vlmheads.errors import VlmHeadsError
from vlmheads.precision import at_least_float32

KEPT = 20


@dataclass(frozen=True, eq=False)
class Candidates:
    """The K likeliest tokens at each of T positions of N rows, likeliest first.

    Args:
        ids: [N, T, K] token ids.
        probability: [N, T, K] of each, float32, from 0 to 1.
    """

    ids: Tensor
    probability: Tensor

    def of(self, row: int, position: int, token: int) -> float | None:
        """Return the probability of a token at a position; None where it is not among the K."""
        found = (self.ids[row, position] == token).nonzero()
        return float(self.probability[row, position, found[0, 0]]) if len(found) else None

    def rank(self, row: int, position: int, token: int) -> int | None:
        """Return the rank of a token at a position, 1 for the likeliest; None likewise."""
        found = (self.ids[row, position] == token).nonzero()
        return int(found[0, 0]) + 1 if len(found) else None

    def cut(self, count: int) -> Candidates:
        """Return the first positions alone."""
        return Candidates(self.ids[:, :count], self.probability[:, :count])


def likeliest(log: Tensor, count: int) -> Candidates:
    """Return the likeliest tokens of log-probabilities [N, T, V], on the CPU.

    Raises:
        VlmHeadsError: fewer than one candidate.
    """
    if count < 1:
        raise VlmHeadsError(f"{count} candidates", "at least 1")
    best = log.topk(min(count, log.shape[-1]), dim=-1)
    return Candidates(best.indices.cpu(), best.values.exp().cpu().float())


def joined(parts: list[Candidates]) -> Candidates:
    """Join candidates of successive positions."""
    return Candidates(
        torch.cat([part.ids for part in parts], dim=1),
        torch.cat([part.probability for part in parts], dim=1),
    )


@dataclass
class CandidateRecorder(LogitsProcessor):
    """Keep the likeliest next tokens of every step of a `generate`, and change nothing.

    Pass it among `logits_processor`. Attached plugins have acted by then, so what it keeps is what
    the token was chosen from, before temperature and top-p. Use a new one for each generation, and
    none with beams, whose rows change places.

    Args:
        count: how many are kept of each step.
    """

    count: int = KEPT
    parts: list[Candidates] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Keep the likeliest of scores [N, V] and return them as they are."""
        log = at_least_float32(scores).log_softmax(dim=-1)
        self.parts.append(likeliest(log[:, None], self.count))
        return scores

    @property
    def candidates(self) -> Candidates | None:
        """What was kept so far; None before the first step."""
        return joined(self.parts) if self.parts else None
