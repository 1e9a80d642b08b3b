"""The negative-head filter: heads that diverge a lot because they are loud without an image."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vlmheads.precision import at_least_float32

Form = Literal["paper", "release"]


def filter_negative_heads(current: Tensor, reference: Tensor, form: Form = "paper") -> Tensor:
    """Divergence of each head, set to zero for the outliers of Eq. 6 of the VHR paper.

    A head is an outlier where both its divergence VHD and its text-only activation
    TA = ‖reference‖² lie more than one standard deviation above the mean of the layer's heads.

    Source: He et al., "Cracking the Code of Hallucination in LVLMs with Vision-aware Head
    Divergence", ACL 2025, arXiv 2412.13949, Eq. 4 and 6. The paper does not say which standard
    deviation; both forms take the unbiased one. The released code, as known from a port of it,
    differs from the paper in two ways, which `form="release"` follows: VHD enters squared, and a
    layer is only filtered if the standard deviation of that is above 1.

    Args:
        current: head outputs with the image [..., H, D].
        reference: head outputs without it [..., H, D].
        form: "paper" or "release".

    Returns:
        Euclidean distances [..., H], float32 or more, outliers 0.
    """
    distance = head_divergence(current, reference)
    activation = at_least_float32(reference).square().sum(dim=-1)
    compared = distance.square() if form == "release" else distance
    outlier = _is_high(compared) & _is_high(activation)
    if form == "release":
        outlier &= compared.std(dim=-1, keepdim=True) > 1
    return distance.masked_fill(outlier, 0)


def head_divergence(current: Tensor, reference: Tensor) -> Tensor:
    """Vision-aware head divergence ‖current - reference‖₂ over the last dimension (Eq. 4).

    Args:
        current: head outputs with the image [..., H, D].
        reference: head outputs without it, of the same shape.

    Returns:
        [..., H], float32 or more.
    """
    difference = at_least_float32(current) - at_least_float32(reference)
    norm: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return norm


def _is_high(values: Tensor) -> Tensor:
    """Where a head lies more than one standard deviation above the mean of its layer."""
    limit = values.mean(dim=-1, keepdim=True) + values.std(dim=-1, keepdim=True)
    return values > limit
