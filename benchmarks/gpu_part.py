"""What every part of benchmarks/gpu.py is told: where to run, how much, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Part:
    """How one part is run.

    Args:
        device: where, "cpu" or "cuda".
        few: tiny models and few cases, as a rehearsal.
        until: by `time.monotonic`, when to begin with nothing more.
        keep: told what was found so far.
    """

    device: str
    few: bool
    until: float
    keep: Callable[[dict[str, Any]], None]

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.until

    @property
    def dtype(self) -> torch.dtype:
        """The precision of models of 7B."""
        return torch.float32 if self.few else torch.bfloat16


CUT = {"cut": "the time was up"}
