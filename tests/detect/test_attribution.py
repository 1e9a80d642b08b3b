"""Head attribution against a slow decoder in which one head after the other is scaled."""

from __future__ import annotations

from typing import Any

import pytest
import slow
import tiny
import torch
from torch import Tensor

import vlmheads
from vlmheads import HeadMap, VlmHeadsError
from vlmheads.detect import Attribution, attribution, correlation

TARGETS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
GROUNDED = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]).bool()
HALLUCINATED = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 1]]).bool()
LENGTHS = (5, 3)


def slow_means(model: Any, index: int, family: str, scaled: Any) -> list[float]:
    """Mean log-probability of the grounded and hallucinated tokens with head outputs edited."""
    row, tokens = tiny.row(family, LENGTHS, index), TARGETS[index].tolist()
    _, logits = slow.decode(model, row, slow.Edits(heads=scaled), tokens=tokens)
    found = [float(line.log_softmax(-1)[token]) for line, token in zip(logits, tokens, strict=True)]
    means = []
    for kind in (GROUNDED, HALLUCINATED):
        chosen = [value for value, marked in zip(found, kind[index], strict=True) if marked]
        means.append(sum(chosen) / len(chosen))
    return means


def slow_effects(family: str, factor: float) -> Tensor:
    model = tiny.build(family)
    effects = torch.zeros(2, 2, 4, 4, dtype=torch.float64)
    for index in range(2):
        plain = slow_means(model, index, family, lambda layer, heads: heads)
        for layer in range(4):
            for head in range(4):
                gains = torch.ones(4, dtype=torch.float64)
                gains[head] = factor

                def scaled(at: int, heads: Tensor, here: int = layer, by: Any = gains) -> Tensor:
                    return heads * by[None, :, None] if at == here else heads

                after = slow_means(model, index, family, scaled)
                for kind in range(2):
                    effects[index, kind, layer, head] = after[kind] - plain[kind]
    return effects


def measured(family: str = "llava", **options: Any) -> Attribution:
    inputs = tiny.inputs(family, LENGTHS)
    return attribution(tiny.build(family), inputs, TARGETS, GROUNDED, HALLUCINATED, **options)


@pytest.mark.parametrize(("family", "factor"), [("llava", 0.0), ("llava-gqa", 1.5)])
def test_effects_are_those_of_scaling_one_head_after_the_other(family: str, factor: float) -> None:
    found = measured(family, factor=factor, rows=6)
    expected = slow_effects(family, factor)
    torch.testing.assert_close(found.effects.double(), expected, atol=1e-5, rtol=0)
    score = (expected[:, 0] - expected[:, 1]).mean(dim=0)
    torch.testing.assert_close(found.score.mean().double(), score, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_gradient_is_the_effect_of_a_small_change_on_every_family(family: str) -> None:
    step = 1.01
    gradient = measured(family, factor=step, method="gradient")
    ablation = measured(family, factor=step)
    largest = float(ablation.effects.abs().max())
    torch.testing.assert_close(gradient.effects, ablation.effects, atol=0.05 * largest, rtol=0.05)
    pearson, _ = correlation(gradient.score, ablation.score)
    assert pearson > 0.99


def test_the_correlation_is_that_of_values_and_of_ranks() -> None:
    geometry = measured(method="gradient").geometry
    values = torch.arange(16.0).reshape(1, 4, 4)
    one = HeadMap(values, geometry, "attribution")
    other = HeadMap(values**3, geometry, "attribution")
    pearson, spearman = correlation(one, other)
    assert spearman == pytest.approx(1.0)
    assert pearson == pytest.approx(float(torch.corrcoef(torch.stack(
        [values.flatten(), values.flatten() ** 3]))[0, 1]), abs=1e-6)  # fmt: skip


def test_an_image_without_a_kind_of_word_is_left_out() -> None:
    only = HALLUCINATED.clone()
    only[0] = False
    inputs = tiny.inputs("llava", LENGTHS)
    found = attribution(tiny.build("llava"), inputs, TARGETS, GROUNDED, only, method="gradient")
    assert (found.grounded.images, found.hallucinated.images, found.score.images) == (2, 1, 1)
    whole = measured(method="gradient")
    torch.testing.assert_close(found.grounded.values, whole.grounded.values)
    joined = Attribution.concatenate([found, whole])
    assert (joined.grounded.images, joined.score.images) == (4, 3)


def test_its_heads_and_gains_are_taken_by_plugins() -> None:
    model, found = tiny.build("llava"), measured(method="gradient")
    score = found.score.mean()
    gains = found.gains(spread=0.5)
    worst = found.heads(1)[0]
    assert score[worst] == score.max()
    expected = 1 - 0.5 * score / score.abs().max()
    torch.testing.assert_close(gains.mean(), expected)
    pairs = [list(pair) for pair in found.heads(2)]
    plugins = [
        vlmheads.get_plugin("gains").from_dict({"head_map": gains}),
        vlmheads.get_plugin("adhh").from_dict({"heads": pairs, "threshold": 0.0}),
        vlmheads.get_plugin("allpath").from_dict({"suppressed": pairs}),
    ]
    with vlmheads.attach(model, plugins):
        assert model.generate(**tiny.inputs("llava"), max_new_tokens=2).shape[1] == 13


def test_what_cannot_be_measured_is_refused() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", LENGTHS)
    with pytest.raises(VlmHeadsError, match="without a marked token"):
        attribution(model, inputs, TARGETS, GROUNDED & False, GROUNDED & False)
    with pytest.raises(VlmHeadsError, match="grounded of shape"):
        attribution(model, inputs, TARGETS, GROUNDED[:1], HALLUCINATED)
    with pytest.raises(VlmHeadsError, match="method='guess'"):
        measured(method="guess")
    with vlmheads.attach(model, "vhr"), pytest.raises(VlmHeadsError, match="plugins attached"):
        measured()
