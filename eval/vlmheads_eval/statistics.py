"""Paired statistics over images: bootstrap, McNemar's test, Holm's correction, verdicts."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, exp, lgamma, log
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
DRAWS = 10_000
LEVEL = 0.95
# The effect, in standard errors, that a two-sided test at 5 % detects with a power of 80 %.
DETECTABLE = 1.959964 + 0.841621
BLOCK = 1_000_000  # Weights in memory at once.
# Sums of whole numbers below this are exact in float32, which multiplies five times as fast.
EXACT = 2**24


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap interval; None where it is undefined.

    Args:
        value: on the sample.
        low: 2.5th percentile over draws.
        high: 97.5th percentile over draws.
        p: two-sided bootstrap p value against zero, for differences.
        error: standard deviation over draws.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    error: float | None = None

    @property
    def detectable(self) -> float | None:
        """The smallest true difference detected with 80 % power at this number of images."""
        return None if self.error is None else DETECTABLE * self.error

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies above or below zero as a whole."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def needs(self, images: int) -> int | None:
        """How many images detect a true difference as large as this one with 80 % power.

        The standard error falls with the square root of the number of images.

        Args:
            images: on which this figure was measured.
        """
        if not self.value or not self.detectable:
            return None
        return ceil(images * (self.detectable / abs(self.value)) ** 2)

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON, with the smallest detectable difference."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "detectable": self.detectable,
        }


def weight_blocks(images: int, draws: int, seed: int) -> Iterator[Array]:
    """Yield how often each draw takes each image [draws in the block, images].

    The same seed gives the same draws for every run, which makes the comparison paired.
    """
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // max(images, 1))
    for done in range(0, draws, block):
        size = min(block, draws - done)
        weights = np.empty((size, images), dtype=np.int64)
        for row in weights:  # One draw at a time stays in the processor's cache.
            row[:] = np.bincount(generator.integers(0, images, images), minlength=images)
        yield weights


def sum_blocks(counts: Mapping[Any, Array], draws: int, seed: int) -> Iterator[dict[Any, Array]]:
    """Yield sums over resampled images, block by block: [images, ...] as [block, ...]."""
    images = len(next(iter(counts.values())))
    flat = {name: _multiplied(rows.reshape(images, -1)) for name, rows in counts.items()}
    for weights in weight_blocks(images, draws, seed):
        cast = {kind: weights.astype(kind) for kind in {rows.dtype for rows in flat.values()}}
        yield {
            name: (cast[rows.dtype] @ rows)
            .astype(float)
            .reshape(len(weights), *counts[name].shape[1:])
            for name, rows in flat.items()
        }


def _multiplied(rows: Array) -> Array:
    """Return counts in the fastest type in which their sums over any draw are exact."""
    whole = np.issubdtype(rows.dtype, np.integer)
    small = whole and len(rows) * int(np.abs(rows).max(initial=0)) < EXACT
    return rows.astype(np.float32 if small else float)


def draw(
    counts: Mapping[Any, Array],
    figures: Callable[[Mapping[Any, Array]], Mapping[Any, Array]],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[Hashable, Array]:
    """Return figures of resampled sums: each an array [draws]; the sums themselves are not kept.

    Args:
        counts: arrays [images, ...] by name.
        figures: from sums [block, ...] by name to arrays [block] by key.
        draws: how many.
        seed: of the draws.
    """
    parts: dict[Hashable, list[Array]] = {}
    for sums in sum_blocks(counts, draws, seed):
        for key, values in figures(sums).items():
            parts.setdefault(key, []).append(values)
    return {key: np.concatenate(values) for key, values in parts.items()}


def resample(counts: Mapping[str, Array], draws: int = DRAWS, seed: int = 0) -> dict[str, Array]:
    """Return sums over resampled images, paired: arrays [images, ...] become [draws, ...]."""
    blocks = list(sum_blocks(counts, draws, seed))
    return {name: np.concatenate([block[name] for block in blocks]) for name in counts}


def estimate(value: Any, drawn: Array) -> Estimate:
    """Return a figure with interval and p value from its draws; NaN draws are ignored."""
    number = float(value)
    known = drawn[~np.isnan(drawn)]
    if np.isnan(number) or not len(known):
        return Estimate(None)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(known, (tail, 1 - tail))
    # One more on both sides, so that a p value is never zero because there are few draws.
    below, above = int((known <= 0).sum()) + 1, int((known >= 0).sum()) + 1
    p = min(1.0, 2 * min(below, above) / (len(known) + 1))
    return Estimate(number, float(low), float(high), p, float(known.std()))


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p value of McNemar's test from the two discordant counts."""
    discordant = first_only + second_only
    if discordant == 0:
        return 1.0
    logs = [
        lgamma(discordant + 1) - lgamma(k + 1) - lgamma(discordant - k + 1) - discordant * log(2)
        for k in range(min(first_only, second_only) + 1)
    ]
    return min(1.0, 2 * sum(map(exp, logs)))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return p values adjusted by Holm's step-down method; None stays None."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = largest
    return adjusted


def differ(
    measure: Callable[[Array], Array], sample: tuple[Array, Array], drawn: tuple[Array, Array]
) -> Estimate:
    """Return the difference second minus first of a measure, on the sample and its draws."""
    first, second = (measure(sums) for sums in sample)
    first_drawn, second_drawn = (measure(sums) for sums in drawn)
    return estimate(second - first, second_drawn - first_drawn)


ALPHA = 0.05
BETTER, WORSE, SAME = "better", "worse", "not distinguishable"
