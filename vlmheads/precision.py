"""The one rule on precision: what is measured or compared is at least float32."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Return `values` as float32, or as they are where they are more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
