"""Groups of heads: how far removing them together turns the representation of marked words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmheads.detect.objectives import OBJECTIVES, Objective, Trial
from vlmheads.detect.replay import Towards
from vlmheads.errors import VlmHeadsError


def principal_angles(one: Tensor, other: Tensor, rank: int) -> Tensor:
    """Sum of the principal angles between the main left singular subspaces of two matrices.

    φ = Σ_{r ≤ rank} arccos σ_r(U^T U'), with U and U' the first left singular vectors.

    Args:
        one: [..., M, E] states, one row per word.
        other: [..., M, E] the same words' states after a change.
        rank: dimensions of the subspaces, at most M and E.

    Returns:
        [...] radians, from 0 to rank · π/2.
    """
    bases = [
        torch.linalg.svd(part.double(), full_matrices=False).U[..., :rank] for part in (one, other)
    ]
    cosines = torch.linalg.svdvals(bases[0].transpose(-1, -2) @ bases[1]).clamp(max=1)
    angles: Tensor = cosines.arccos().sum(dim=-1)
    return angles


@torch.no_grad()
def turned(
    trials: Sequence[Trial],
    objective: Objective,
    sets: Tensor,
    *,
    rank: int,
    rows: int,
    towards: Towards,
) -> Tensor:
    """Ships of sets of heads: how far each turns the states before the marked words.

    The last states at the positions that predict marked tokens, those of all answers as the rows
    of a matrix, span a subspace; a set's score is the sum of the principal angles between it and
    the one with the set's gains. By the objective "hallucinated" it is that of the hallucinated
    words; by "grounded" that of the grounded ones with its sign turned, so that heads are chosen
    that leave them alone; by "contrast" the sum of both.

    Source: the generalised Ships and Sahara of "On the Role of Attention Heads in LLM Safety",
    arXiv 2410.13708. Deviations: rows are the positions before marked words, where the source has
    the last token of harmful prompts; its number of singular vectors is not known to us.

    Args:
        trials: batches of answers.
        objective: one of `OBJECTIVES`.
        sets: [K, L, H] gains.
        rank: singular vectors that are compared, cut to the number of words.
        rows: rows of a batch.
        towards: see `Replay.log_probabilities`.

    Returns:
        [K] scores, in radians.

    Raises:
        VlmHeadsError: an objective of one's own, which says nothing of states, or too few words.
    """
    signs = {
        OBJECTIVES["contrast"]: (-1.0, 1.0),
        OBJECTIVES["grounded"]: (-1.0, 0.0),
        OBJECTIVES["hallucinated"]: (0.0, 1.0),
    }.get(objective)
    if signs is None:
        raise VlmHeadsError(
            "an objective of your own with groups, which compare states",
            f"one of {', '.join(OBJECTIVES)}",
        )
    wanted = {
        kind: sign for kind, sign in zip(("grounded", "hallucinated"), signs, strict=True) if sign
    }
    for kind in wanted:
        words = sum(int(getattr(trial, kind).sum()) for trial in trials)
        if words < 2:
            raise VlmHeadsError(f"{words} {kind} tokens", "at least two, to span a subspace")
    every = torch.cat([torch.ones_like(sets[:1]), sets])
    parts = [_states(trial, tuple(wanted), every, rows, towards) for trial in trials]
    scores = torch.zeros(len(sets), dtype=torch.float64)
    for kind, sign in wanted.items():
        states = torch.cat([part[kind] for part in parts], dim=1)
        # As many vectors as words span everything, and nothing could turn.
        used = min(rank, states.shape[1] - 1, states.shape[2])
        scores += sign * principal_angles(states[:1], states[1:], used)
    return scores


def _states(
    trial: Trial, kinds: Sequence[str], sets: Tensor, rows: int, towards: Towards
) -> dict[str, Tensor]:
    """Last states [K, M, E] at the positions that predict the marked tokens of each kind."""
    replay, count = trial.replay, trial.targets.shape[1]
    size = max(1, rows // replay.rows)
    found: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    for start in range(0, len(sets), size):
        some = sets[start : start + size].to(trial.targets.device)
        states = replay.states(some.repeat_interleave(replay.rows, 0), towards)
        states = states[:, -count - 1 : -1].reshape(len(some), *trial.targets.shape, -1)
        for kind in kinds:
            found[kind].append(states[:, getattr(trial, kind)].cpu())
    return {kind: torch.cat(part) for kind, part in found.items()}
