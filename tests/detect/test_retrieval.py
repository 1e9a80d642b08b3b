"""Retrieval heads against the definition, in float64 on full attention maps."""

from __future__ import annotations

import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads import VlmHeadsError
from vlmheads.detect import patches_in_box, retrieval

TARGETS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
NEEDLES = torch.zeros(2, 4, 4, dtype=torch.bool)
NEEDLES[0, 1, 2:] = NEEDLES[0, 2, :2] = NEEDLES[0, 3, 1:] = True
NEEDLES[1, 0, :3] = NEEDLES[1, 3, 3] = True


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_a_head_scores_where_its_largest_weight_is_on_the_object(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3)
    found = retrieval(model, tiny.inputs(family, lengths), TARGETS, NEEDLES)
    for index in range(2):
        row = tiny.row(family, lengths, index)
        steps: list[list[Tensor]] = []

        def keep(layer: int, weights: Tensor, steps: list[list[Tensor]] = steps) -> Tensor:
            if layer == 0:
                steps.append([])
            steps[-1].append(weights[:, -1])
            return weights

        slow.decode(model, row, slow.Edits(weights=keep), tokens=TARGETS[index].tolist())
        patches = slow.image_columns(model, row).nonzero()[:, 0].tolist()
        for layer in range(4):
            for head in range(4):
                hits = named = 0
                for step in range(4):
                    needle = [patches[p] for p in range(4) if NEEDLES[index, step, p]]
                    named += bool(needle)
                    hits += int(steps[step][layer][head].argmax()) in needle
                assert float(found.values[index, layer, head]) == pytest.approx(hits / named)
    assert 0 < float(found.values.max()) <= 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_needle_of_every_patch_is_hit_by_heads_of_every_family(family: str) -> None:
    inputs = tiny.inputs(family, (5, 3))
    tokens = int((inputs["input_ids"][0] == tiny.IMAGE).sum())
    needles = torch.ones(2, 4, tokens, dtype=torch.bool)
    found = retrieval(tiny.build(family), inputs, TARGETS, needles)
    assert found.measure == "retrieval"
    assert float(found.values.max()) > 0


def test_a_box_marks_the_patches_that_it_touches() -> None:
    assert patches_in_box((0, 0, 0.5, 0.5), 16).nonzero()[:, 0].tolist() == [0, 1, 4, 5]
    assert patches_in_box((0.6, 0.9, 0.7, 1), 6, (2, 3)).nonzero()[:, 0].tolist() == [4, 5]
    with pytest.raises(VlmHeadsError, match="box"):
        patches_in_box((0.5, 0, 0.5, 1), 16)
    with pytest.raises(VlmHeadsError, match="15 image tokens"):
        patches_in_box((0, 0, 1, 1), 15)


def test_shapes_that_do_not_fit_are_refused() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", (5, 3))
    with pytest.raises(VlmHeadsError, match="targets of shape"):
        retrieval(model, inputs, TARGETS[:1], NEEDLES)
    with pytest.raises(VlmHeadsError, match="needles of shape"):
        retrieval(model, inputs, TARGETS, NEEDLES[..., :3])
    with pytest.raises(VlmHeadsError, match="without any needle"):
        retrieval(model, inputs, TARGETS, NEEDLES & False)
