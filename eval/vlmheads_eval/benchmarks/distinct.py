"""Distinct-n: how many of a text's n-grams differ (Li et al., 2016), in named variants."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.statistics import estimate, resample

VARIANTS: Mapping[str, str] = {
    "mean": "lower-case words without punctuation, mean over captions (AdaIAT's table)",
    "corpus": "lower-case words without punctuation, all captions together (Li et al., 2016)",
    "mean-tokens": "split at white space as written, mean over captions",
    "corpus-tokens": "split at white space as written, all captions together",
}


def tokens(text: str, variant: str) -> list[str]:
    """Return the units of a text that a variant counts."""
    return text.split() if variant.endswith("tokens") else re.findall(r"[a-z0-9']+", text.lower())


def ngrams(units: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Return the n-grams of `size` in order."""
    return list(zip(*(units[start:] for start in range(size)), strict=False))


def distinct(units: Sequence[str], size: int) -> float | None:
    """Return the share of distinct n-grams of `size`; None for a text too short to have one."""
    grams = ngrams(units, size)
    return len(set(grams)) / len(grams) if grams else None


def score_distinct(
    captions: Sequence[str], sizes: Sequence[int] = (1, 2), *, draws: int = 2_000, seed: int = 0
) -> dict[str, Any]:
    """Return Distinct-n in every variant, with the captions' mean length.

    Captions without an n-gram are left out of a mean, and counted as "without". Means have a 95 %
    interval over draws of captions; the corpus figure depends on the number of captions, so draws
    of captions, which repeat some, say nothing about it.
    """
    if not captions:
        raise VlmHeadsError("no captions", "at least one")
    result: dict[str, Any] = {}
    for variant in VARIANTS:
        split = [tokens(text, variant) for text in captions]
        for size in sizes:
            name = f"Distinct-{size} {variant}"
            if variant.startswith("corpus"):
                grams = [gram for one in split for gram in ngrams(one, size)]
                value = len(set(grams)) / len(grams) if grams else None
                result[name] = {"value": value, "low": None, "high": None, "of": len(grams)}
                continue
            known = [found for one in split if (found := distinct(one, size)) is not None]
            result[name] = {**_mean(known, draws, seed), "of": len(known)}
            result[name]["without"] = len(captions) - len(known)
    words = [len(tokens(text, "mean")) for text in captions]
    return {
        "benchmark": "distinct",
        "captions": len(captions),
        "empty": sum(not number for number in words),
        "words": float(np.mean(words)),
        "figures": result,
    }


def _mean(known: Sequence[float], draws: int, seed: int) -> dict[str, Any]:
    if not known:
        return {"value": None, "low": None, "high": None}
    drawn = resample({"run": np.array(known)[:, None]}, draws, seed)["run"][:, 0] / len(known)
    found = estimate(np.mean(known), drawn)
    return {"value": found.value, "low": found.low, "high": found.high}
