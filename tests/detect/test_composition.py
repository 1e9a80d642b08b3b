"""Which head reads from which, against a layer's attention done by hand."""

from __future__ import annotations

import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads import VlmHeadsError
from vlmheads.detect.composition import Composition, composition

HEADS = ((0, 1), (1, 0), (1, 2), (3, 2))
LENGTHS = (5, 3)


def by_hand(family: str, index: int) -> Tensor:
    """[K, K] relative changes of one prompt."""
    model = tiny.build(family)
    outputs: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}

    decoder = slow.Slow(
        model, slow.Edits(heads=slow.keep_in(outputs), residual=slow.keep_in(after))
    )
    row = tiny.row(family, LENGTHS, index)
    decoder.prompt(row)
    visual = slow.image_columns(model, row)
    last = int(visual.nonzero()[-1])
    strength = torch.zeros(4, 4, dtype=torch.float64)
    for one, (wrote, writer) in enumerate(HEADS):
        for other, (reads, reader) in enumerate(HEADS):
            if wrote >= reads:
                continue
            weight = decoder.weights[f"layers.{wrote}.self_attn.o_proj.weight"]
            added = outputs[wrote][:, writer] @ weight[:, 8 * writer : 8 * writer + 8].T
            fresh: dict[int, Tensor] = {}
            again = slow.Slow(model, slow.Edits(heads=slow.keep_in(fresh)))
            again._layer(reads, after[reads - 1] - added)
            before, now = outputs[reads][:, reader], fresh[reads][:, reader]
            change = (before - now).norm(dim=-1) / before.norm(dim=-1)
            strength[one, other] = change[last + 1 :].mean()
    return strength


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_the_writer_is_taken_out_of_what_the_readers_layer_reads(family: str) -> None:
    found = composition(tiny.build(family), tiny.inputs(family, LENGTHS), HEADS, rows=4)
    for index in range(2):
        torch.testing.assert_close(
            found.strength[index].double(), by_hand(family, index), atol=1e-5, rtol=1e-4
        )
    writer, reader, strength = found.edges()[0]
    assert writer[0] < reader[0]
    assert strength == pytest.approx(float(found.strength.mean(dim=0).max()))
    assert len(found.edges()) == 5  # not within layer 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_can_be_asked(family: str) -> None:
    inputs = tiny.inputs(family, LENGTHS)
    found = composition(tiny.build(family), inputs, [(0, 0), (2, 1)])
    assert bool((found.strength[:, 0, 1] > 0).all())
    assert float(found.strength[:, 1, 0].abs().max()) == 0
    joined = Composition.concatenate([found, found])
    assert joined.strength.shape == (4, 2, 2)


def test_heads_that_cannot_compose_are_refused() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava")
    with pytest.raises(VlmHeadsError, match="at least two layers"):
        composition(model, inputs, [(1, 0), (1, 1)])
    with pytest.raises(VlmHeadsError, match="composition names"):
        composition(model, inputs, [(1, 0), (4, 1)])
