"""Attention mass of words against full attention maps, in float64."""

from __future__ import annotations

import pytest
import slow
import tiny
import torch
from torch import Tensor

import vlmheads
from vlmheads import VlmHeadsError
from vlmheads.detect.mass import WordMass, word_mass

TARGETS = torch.tensor([[5, 9, 13, 4], [7, 3, 21, 63]])
WORDS = torch.tensor([[True, False, True, False], [False, True, False, True]])


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_masses_are_those_of_the_rows_that_predict_the_words(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3)
    inputs = tiny.inputs(family, lengths)
    apart = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    apart[:, -4:-1] = True
    found = word_mass(model, inputs, TARGETS, WORDS, apart)
    assert found.apart is not None
    assert word_mass(model, inputs, TARGETS, WORDS).apart is None
    assert found.said.tolist() == [0, 2, 1, 3]
    word = 0
    for index in range(2):
        row = tiny.row(family, lengths, index)
        steps: list[list[Tensor]] = []

        def keep(layer: int, weights: Tensor, steps: list[list[Tensor]] = steps) -> Tensor:
            if layer == 0:
                steps.append([])
            steps[-1].append(weights[:, -1])
            return weights

        slow.decode(model, row, slow.Edits(weights=keep), tokens=TARGETS[index].tolist())
        visual = slow.image_columns(model, row).tolist()
        for place in WORDS[index].nonzero()[:, 0].tolist():
            for layer in range(4):
                for head in range(4):
                    seen = steps[place][layer][head].tolist()
                    sums = {"image": 0.0, "prompt": 0.0, "generated": 0.0}
                    for column, weight in enumerate(seen):
                        kind = "generated" if column >= len(visual) else "prompt"
                        kind = "image" if column < len(visual) and visual[column] else kind
                        sums[kind] += weight
                    for kind, total in sums.items():
                        value = float(getattr(found, kind)[word, layer, head])
                        assert value == pytest.approx(total, abs=1e-5)
                    own = sum(seen[len(visual) - 4 : len(visual) - 1])
                    value = float(found.apart[word, layer, head])
                    assert value == pytest.approx(own, abs=1e-5)
            word += 1
    assert word == len(found.image)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_masses_of_every_family_sum_to_one_and_batches_change_nothing(family: str) -> None:
    lengths = (5, 3)
    model = tiny.build(family)
    together = word_mass(model, tiny.inputs(family, lengths), TARGETS, WORDS)
    total = together.image + together.prompt + together.generated
    known = ~total.isnan()
    assert set(known.all(dim=2).any(dim=0).nonzero()[:, 0].tolist()) == set(
        together.geometry.attention_layers
    )
    assert bool((total[known] <= 1 + 1e-4).all())
    parts = [
        word_mass(model, tiny.row(family, lengths, i), TARGETS[i : i + 1], WORDS[i : i + 1])
        for i in range(2)
    ]
    alone = WordMass.concatenate(parts)
    for name in ("image", "prompt", "generated", "said"):
        one, other = getattr(together, name), getattr(alone, name)
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0, equal_nan=True)


def test_what_cannot_be_recorded_is_refused() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", (5, 3))
    with pytest.raises(VlmHeadsError, match="no marked word"):
        word_mass(model, inputs, TARGETS, torch.zeros_like(WORDS))
    with pytest.raises(VlmHeadsError, match="words of shape"):
        word_mass(model, inputs, TARGETS, WORDS[:, :2])
    with pytest.raises(VlmHeadsError, match="apart of shape"):
        word_mass(model, inputs, TARGETS, WORDS, WORDS)
    with pytest.raises(VlmHeadsError, match="image tokens"):
        word_mass(model, inputs, torch.full_like(TARGETS, tiny.IMAGE), WORDS)
    with pytest.raises(VlmHeadsError, match="no word was recorded"):
        WordMass.concatenate([])
    with vlmheads.attach(model, "iat"), pytest.raises(VlmHeadsError, match="attached"):
        word_mass(model, inputs, TARGETS, WORDS)
