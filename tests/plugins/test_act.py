"""ACT against its formulas, in float64 on full attention maps."""

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
from vlmheads_plugins.act import ACT

import vlmheads

PAIRS = ["llava", "llava-gqa"]


def calibrate(heads: list[tuple[int, int]], beta: float, limit: Any) -> Any:
    """Column by column, row by row; `limit` is given the length of the prompt."""

    def edit(layer: int, weights: Tensor) -> Tensor:
        length = weights.shape[1]
        if length == 1:
            return weights
        weights = weights.clone()
        for head in range(len(weights)):
            if (layer, head) not in heads:
                continue
            grid = weights[head]
            scores = [float(grid[:, j].sum()) / (length - j) for j in range(length)]
            sinks = [j for j in range(length) if scores[j] > limit(length)][1:]
            others = [j for j in range(length) if j not in sinks]
            for row in grid[1:]:
                total, rest = float(row[sinks].sum()), float(row[others].sum())
                row[others] *= 1 + (1 - beta) * total / rest
                row[sinks] *= beta
        return weights

    return edit


@pytest.mark.parametrize("family", PAIRS)
def test_sinks_of_the_prompt_are_calibrated_as_the_paper_says(family: str) -> None:
    heads = [(0, 1), (1, 0), (1, 3), (3, 2)]
    edits = slow.Edits(weights=calibrate(heads, 0.2, lambda length: 1.1 / length))
    agree.assert_plugin_is(ACT(alpha=1.1, beta=0.2, heads=heads), edits, family)


@pytest.mark.parametrize("family", PAIRS)
def test_the_released_form_has_a_fixed_threshold(family: str) -> None:
    heads = [(layer, head) for layer in (1, 2, 3) for head in range(4)]
    edits = slow.Edits(weights=calibrate(heads, 0.4, lambda _: 0.15))
    plugin = ACT(form="release", threshold=0.15, layers=(1, 2, 3))
    agree.assert_plugin_is(plugin, edits, family)


def test_generated_tokens_attend_as_before() -> None:
    for (step, _), (before, after) in agree.rows_around(ACT(alpha=1.0)).items():
        assert step == 0 or torch.equal(after.weights, before.weights)


@pytest.mark.parametrize("form", ["paper", "release"])
@settings(max_examples=10, deadline=None)
@given(least=st.floats(0, 0.5), beta=st.floats(0, 1))
def test_rows_keep_their_sum_whatever_the_options(form: str, least: float, beta: float) -> None:
    option = {"alpha": 10 * least} if form == "paper" else {"threshold": least}
    plugin = ACT(beta=beta, form=form, **option)
    for _, after in agree.rows_around(plugin).values():
        torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(after.weights.shape[:-1]))


def test_without_a_cache_the_prompt_is_calibrated_again() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    options = {"max_new_tokens": 6, "do_sample": False}
    with vlmheads.attach(model, ACT(alpha=1.0)):
        expected = model.generate(**row, **options)
        assert expected.tolist() == model.generate(**row, **options, use_cache=False).tolist()


def test_a_head_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="act: heads"):
        vlmheads.attach(tiny.build("llava"), ACT(heads=[[0, 4]]))
