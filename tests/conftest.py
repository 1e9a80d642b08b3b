"""Let the tests see torchvision, which processors with a video part need, without its operators.

`make` puts torchvision into a folder beside torch and not among the packages: next to PyPI's torch
for the CPU its compiled operators do not load, so that importing it fails, and with it transformers
as a whole. What processors use is its Python side, which only asks that the operators be declared.
Commands that tests start as processes of their own run without torchvision.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

TORCHVISION = Path(torch.__file__).parents[1] / "torchvision-for-tests"
# Declarations stay for as long as this does.
_operators = torch.library.Library("torchvision", "FRAGMENT")


def _add_torchvision() -> None:
    """Put torchvision on the path, with its operators or with declarations of those it asks for."""
    if not TORCHVISION.is_dir():
        return
    sys.path.append(str(TORCHVISION))
    try:
        for library in (TORCHVISION / "torchvision").glob("_C*"):
            torch.ops.load_library(library)
    except OSError:
        for name in ("nms", "qnms"):
            _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_add_torchvision()
