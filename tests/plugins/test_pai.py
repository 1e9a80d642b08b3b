"""PAI against its formulas, in float64 on full attention maps."""

from __future__ import annotations

import math
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.pai import PAI

import vlmheads
from vlmheads.model.geometry import Geometry

PAIRS = ["llava", "llava-gqa"]


def raise_scores(family: str, layers: list[int], alpha: float) -> Any:
    """The scores of image tokens, in the last row alone."""
    images = slow.image_columns(tiny.build(family), tiny.inputs(family)).nonzero()[:, 0].tolist()

    def edit(layer: int, scores: Tensor) -> Tensor:
        if layer not in layers:
            return scores
        scores = scores.clone()
        for head in range(len(scores)):
            for j in images:
                score = float(scores[head, -1, j])
                scores[head, -1, j] = score + alpha * abs(score)
        return scores

    return edit


def guided_logits(family: str, gamma: float, cutoff: float) -> Any:
    """Guidance by a text-only stream of its own, which is given the tokens that were chosen."""
    row = tiny.inputs(family)
    text = slow.Slow(tiny.build(family))
    last: list[int] = []

    def edit(step: int, logits: Tensor) -> Tensor:
        other = text.prompt(row, images=False) if step == 0 else text.token(last[-1])
        with_image, without = logits.softmax(-1), other.softmax(-1)
        result = torch.full_like(logits, -math.inf)
        for token in range(len(logits)):
            if with_image[token] >= cutoff * with_image.max():
                result[token] = gamma * with_image[token].log() - (gamma - 1) * without[token].log()
        last.append(int(result.argmax()))
        return slow.settled(result, logits)

    return edit


@pytest.mark.parametrize("family", PAIRS)
def test_pai_raises_the_scores_of_the_image_as_its_formula_says(family: str) -> None:
    edits = slow.Edits(scores=raise_scores(family, [1, 3], 0.7))
    agree.assert_plugin_is(PAI(alpha=0.7, layers=(1, 3)), edits, family)


@pytest.mark.parametrize("family", PAIRS)
def test_pai_guides_the_logits_as_its_formula_says(family: str) -> None:
    scores = raise_scores(family, [0, 1, 2, 3], 0.5)
    edits = slow.Edits(scores=scores, logits=guided_logits(family, 1.4, 0.1))
    agree.assert_plugin_is(PAI(gamma=1.4), edits, family)


@pytest.mark.parametrize("family", PAIRS)
def test_as_released_guidance_has_the_first_token_for_itself(family: str) -> None:
    raised = raise_scores(family, [0, 1, 2, 3], 0.5)

    def later(layer: int, scores: Tensor) -> Tensor:
        return scores if scores.shape[1] > 1 else raised(layer, scores)

    edits = slow.Edits(scores=later, logits=guided_logits(family, 1.4, 0.1))
    plugin = PAI(gamma=1.4, form="release")
    agree.assert_plugin_is(plugin, edits, family)
    row, model = tiny.inputs(family), tiny.build(family)
    released, paper, alone = (
        agree.generate(model, row, found, 2)[1]
        for found in (plugin, PAI(gamma=1.4), PAI(alpha=0.0, gamma=1.4))
    )
    assert torch.equal(released[0], alone[0])
    assert not torch.equal(released[0], paper[0])
    with pytest.raises(vlmheads.VlmHeadsError, match="form='release' has no effect"):
        PAI(form="release")


def test_guidance_is_off_by_default() -> None:
    assert PAI().streams == ()


@pytest.mark.parametrize(("depth", "first"), [(32, 2), (28, 2), (40, 2), (4, 0)])
def test_the_layers_of_the_paper_are_scaled_to_the_depth(depth: int, first: int) -> None:
    assert Geometry("llava", depth, 4).scaled(2, 32) == tuple(range(first, depth))


def test_only_the_last_row_of_the_prompt_is_edited() -> None:
    before, after = agree.rows_around(PAI(alpha=2.0))[0, 2]
    torch.testing.assert_close(after.weights[:, :, :-1], before.weights[:, :, :-1])
    assert not torch.equal(after.weights[:, :, -1], before.weights[:, :, -1])


@settings(max_examples=10, deadline=None)
@given(alpha=st.floats(0, 10), family=st.sampled_from(["llava-gqa", "gemma3"]))
def test_rows_sum_to_one_whatever_the_strength(alpha: float, family: str) -> None:
    for before, after in agree.rows_around(PAI(alpha=alpha), family).values():
        assert bool((after.scores.isinf() == before.scores.isinf()).all())
        torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(after.weights.shape[:-1]))


@settings(max_examples=10, deadline=None)
@given(gamma=st.floats(0, 10).filter(lambda gamma: gamma != 1), cutoff=st.floats(0, 1))
def test_guided_logits_are_numbers_and_the_likeliest_token_stays(
    gamma: float, cutoff: float
) -> None:
    model = tiny.build("llava-gqa")
    _, logits = agree.generate(model, tiny.inputs("llava-gqa"), PAI(gamma=gamma, cutoff=cutoff), 2)
    assert bool(logits.isfinite().all())


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="pai: layers"):
        vlmheads.attach(tiny.build("llava"), PAI(layers=(4,)))
