"""How values compare with their like: the half that leads, deviations, ranges of 0 to 1."""

from __future__ import annotations

import torch
from torch import Tensor


def top_half(values: Tensor) -> Tensor:
    """[B, H, Q] True for the half of the heads with the largest values, rounded down.

    One head of one counts. Among equals the first is taken.
    """
    count = max(1, values.shape[1] // 2)
    chosen = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, chosen, True)


def mean_and_deviation(values: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the sample standard deviation [..., 1] of values [..., K] at a place."""
    count = place.sum(dim=-1, keepdim=True)
    mean = (values * place).sum(dim=-1, keepdim=True) / count.clamp(min=1)
    squares = ((values - mean) * place).square().sum(dim=-1, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def to_unit(values: Tensor, place: Tensor) -> Tensor:
    """Scale values [B, K] to 0..1 over a place; 0 off it, and where all are equal."""
    low = values.masked_fill(~place, torch.inf).amin(dim=1, keepdim=True)
    high = values.masked_fill(~place, -torch.inf).amax(dim=1, keepdim=True)
    wide = torch.where(high > low, high - low, 1.0)
    return torch.where(place & (high > low), (values - low) / wide, 0.0)


def scaled(values: Tensor, image: Tensor) -> Tensor:
    """Cut [B, K] at three deviations from the mean over the image, and scale it to 0..1 there."""
    mean, deviation = mean_and_deviation(values, image)
    cut = torch.minimum(torch.maximum(values, mean - 3 * deviation), mean + 3 * deviation)
    return to_unit(cut, image)
