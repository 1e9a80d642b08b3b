"""Image paths against their formula, one head and one token at a time, in float64."""

from __future__ import annotations

import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.allpath import AllPath

from vlmheads import VlmHeadsError
from vlmheads.detect import image_paths, patches_in_box, patches_in_mask

TARGETS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
HALLUCINATED = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 1]]).bool()
LENGTHS = (5, 3)
# (row, target) -> which of the four image tokens show its object.
REGIONS = {(0, 0): [1, 0, 0, 1], (0, 2): [0, 1, 0, 0], (1, 1): [1, 1, 1, 0]}


def regions() -> Tensor:
    found = torch.zeros(2, 4, 4).bool()
    for at, marked in REGIONS.items():
        found[at] = torch.tensor(marked).bool()
    return found


def by_formula(family: str) -> Tensor:
    """Scores [L, H] from a decoder that shares no code with the library."""
    model = tiny.build(family)
    there: list[Tensor] = []
    absent: list[Tensor] = []
    for index in range(2):
        maps: dict[int, Tensor] = {}

        def keep(layer: int, weights: Tensor, into: dict[int, Tensor] = maps) -> Tensor:
            into[layer] = weights[:, -1]
            return weights

        row = tiny.row(family, LENGTHS, index)
        image = slow.image_columns(model, row).nonzero().flatten().tolist()
        decoder = slow.Slow(model, slow.Edits(weights=keep))
        for step in range(4):
            if step == 0:
                decoder.prompt(row)
            else:
                decoder.token(int(TARGETS[index, step - 1]))
            mass = torch.stack([maps[layer][:, image] for layer in range(4)])  # [L, H, 4]
            if (index, step) in REGIONS:
                there.append((mass * torch.tensor(REGIONS[index, step])).sum(dim=-1))
            if HALLUCINATED[index, step]:
                absent.append(mass.sum(dim=-1))
    return torch.stack(there).mean(dim=0) - torch.stack(absent).mean(dim=0)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_scores_are_those_of_the_formula_and_list_heads_to_boost(family: str) -> None:
    inputs = tiny.inputs(family, LENGTHS)
    found = image_paths(tiny.build(family), inputs, TARGETS, regions(), HALLUCINATED)
    expected = by_formula(family)
    torch.testing.assert_close(found.mean().double(), expected, atol=1e-5, rtol=0)
    plugin = AllPath(head_map=found, count=2)
    highest = expected.flatten().argsort()[-2:].tolist()
    assert plugin.listed(found.geometry) == ((), tuple(divmod(index, 4) for index in highest))
    assert AllPath(head_map=found).listed(found.geometry)[1] == tuple(
        divmod(int(expected.argmax()), 4) for _ in range(1)
    )
    with pytest.raises(VlmHeadsError, match="low=0.5 has no effect"):
        AllPath(head_map=found, low=0.5)


def test_a_mask_marks_the_patches_that_it_touches() -> None:
    mask = torch.zeros(30, 20).bool()
    mask[14:16, 0:9] = True
    expected = patches_in_box((0, 14 / 30, 9 / 20, 16 / 30), 16)
    assert torch.equal(patches_in_mask(mask, 16), expected)
    assert patches_in_mask(mask, 6, (3, 2)).tolist() == [False, False, True, False, False, False]
    assert not bool(patches_in_mask(torch.zeros(5, 5).bool(), 16).any())
    with pytest.raises(VlmHeadsError, match="a mask of shape"):
        patches_in_mask(mask[0], 16)


@pytest.mark.parametrize(
    ("marked", "wrong", "match"),
    [
        (regions(), torch.zeros(2, 4).bool(), "without a region or without a hallucinated"),
        (torch.zeros(2, 4, 4).bool(), HALLUCINATED, "without a region or without a hallucinated"),
        (regions(), torch.ones(2, 4).bool(), "no token with a region among the hallucinated"),
        (torch.ones(2, 4, 3).bool() & ~HALLUCINATED[..., None], HALLUCINATED, "regions of shape"),
    ],
)
def test_marks_that_do_not_fit_are_refused(marked: Tensor, wrong: Tensor, match: str) -> None:
    with pytest.raises(VlmHeadsError, match=match):
        image_paths(tiny.build("llava"), tiny.inputs("llava", LENGTHS), TARGETS, marked, wrong)
