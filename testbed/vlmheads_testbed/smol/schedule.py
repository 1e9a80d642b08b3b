"""The learning rate: a short rise, a constant part that can end at any step, a linear fall."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Rise over ``warmup`` steps to ``rate``, stay there, fall over the last ``cooldown`` steps.

    Warm-up, stable, decay (WSD; Hu et al. 2024, arXiv 2404.06395), chosen over a cosine because
    its constant part does not depend on where training ends: a usable model can be had at any
    time by a fall from any step, and the constant part goes on from where it was.
    """

    steps: int
    rate: float
    warmup: int = 50
    cooldown: int = 150

    @property
    def fall(self) -> int:
        """The step at which the rate begins to fall."""
        return max(0, self.steps - self.cooldown)

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0; the last one has nearly none."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        left = min(1.0, (self.steps - step) / max(1, self.cooldown))
        return self.rate * min(rise, left)
