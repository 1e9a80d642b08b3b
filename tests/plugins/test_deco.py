"""DeCo against its formulas, in float64."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.deco import DeCo, candidates

import vlmheads
from vlmheads.model.geometry import Geometry


def reference(family: str, layers: list[int], alpha: float, p: float, k: int) -> slow.Edits:
    """DeCo of one row."""
    weights = slow.Slow(tiny.build(family)).weights
    early: dict[int, Tensor] = {}

    def keep(layer: int, hidden: Tensor) -> Tensor:
        early[layer] = hidden[-1]
        return hidden

    def correct(_: int, logits: Tensor) -> Tensor:
        probabilities = logits.softmax(-1).tolist()
        ranked = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
        kept: list[int] = []
        for token in ranked:
            if len(kept) == k or (kept and sum(probabilities[t] for t in kept) >= p):
                break
            kept.append(token)
        best, chosen = 0.0, logits
        for layer in layers:
            h = early[layer]
            h = h / ((h * h).mean() + 1e-6).sqrt() * weights["norm.weight"]
            found = weights["lm_head.weight"] @ h
            sure = max(float(found.softmax(-1)[token]) for token in kept)
            if sure > best:
                best, chosen = sure, found
        edited = torch.full_like(logits, -torch.inf)
        for token in kept:
            edited[token] = logits[token] + alpha * best * chosen[token]
        return slow.settled(edited, logits)

    return slow.Edits(residual=keep, logits=correct)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    "options",
    [
        {"layers": (2,)},
        {"layers": (0, 1, 2), "alpha": 8.0, "p": 0.99, "k": 40},
        {"layers": (1, 3), "alpha": 2.0, "k": 3},
    ],
)
def test_the_surest_layer_corrects_the_candidates(family: str, options: dict[str, Any]) -> None:
    values = {"alpha": 0.6, "p": 0.9, "k": 20} | options | {"layers": list(options["layers"])}
    agree.assert_plugin_is(DeCo(**options), reference(family, **values), family)


def test_the_layers_of_a_model_of_32_are_the_papers_hidden_states_20_to_28() -> None:
    # Hidden state j is the output of layer j - 1.
    assert DeCo().chosen_layers(Geometry("llava", 32, 32)) == tuple(range(19, 28))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 100),
    p=st.floats(0, 1),
    k=st.integers(0, 30),
)
def test_candidates_are_the_fewest_likeliest_that_reach_the_share(
    seed: int, p: float, k: int
) -> None:
    noise = torch.randn(2, 20, generator=torch.Generator().manual_seed(seed))
    probabilities = (3 * noise).softmax(-1)
    for row, kept in zip(probabilities, candidates(probabilities, p, k), strict=True):
        count = int(kept.sum())
        assert 1 <= count <= (k or 20)
        assert count == 20 or float(row[kept].min()) >= float(row[~kept].max())
        if count < min(k or 20, 20):
            assert float(row[kept].sum()) >= p - 1e-5
        if count > 1:
            assert p == 1 or float(row[kept].sum() - row[kept].min()) < p + 1e-5


def test_a_layer_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="layers"):
        vlmheads.attach(tiny.build("llava"), DeCo(layers=(4,)))
