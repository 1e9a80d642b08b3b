"""Checkpoints of a training run: the constant part of the schedule and its fall, apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done, and the step at which its fall ends (0 before any fall)."""

    step: int = 0
    until: int = 0


def save_state(
    path: Path, position: Position, parameters: dict[str, nn.Parameter], optimizer: Any
) -> None:
    """Write what is trained, the optimizer and the position; a kill leaves the old or the new."""
    values = {name: parameter.detach() for name, parameter in parameters.items()}
    new = path.with_suffix(".new")
    torch.save(
        {
            "step": position.step,
            "until": position.until,
            "values": values,
            "optimizer": optimizer.state_dict(),
        },
        new,
    )
    new.replace(path)


def load_state(
    path: Path, parameters: dict[str, nn.Parameter], optimizer: Any | None = None
) -> Position:
    """Put a checkpoint's values in place and return its position."""
    state: dict[str, Any] = torch.load(path, "cpu", weights_only=True)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["values"][name])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return Position(state["step"], state["until"])


def position_of(path: Path) -> Position:
    """Return the position of a checkpoint, or the start where there is none."""
    if not path.exists():
        return Position()
    state: dict[str, Any] = torch.load(path, "cpu", weights_only=True, mmap=True)
    return Position(state["step"], state["until"])
