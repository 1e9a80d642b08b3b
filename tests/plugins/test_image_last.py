"""Prompts that end on an image token: their last row predicts a token, as any other's does."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from active import make
from torch import Tensor
from vlmheads_plugins.devils import Devils
from vlmheads_plugins.pai import PAI

FAMILY = "llava-gqa"


def row() -> dict[str, Tensor]:
    """Two words and an image."""
    found = tiny.inputs(FAMILY, (0,))
    assert int(found["input_ids"][0, -1]) == tiny.IMAGE
    return found


def raised(*, mean: bool) -> Any:
    """Scores of the image in the last row, each by its own size or by the mean of the heads."""
    visual = slow.image_columns(tiny.build(FAMILY), row()).nonzero()[:, 0].tolist()

    def edit(_: int, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for j in visual:
            size = scores[:, -1, j].abs()
            scores[:, -1, j] += 0.7 * (size.mean() if mean else size)
        return scores

    return slow.Edits(scores=edit)


def test_pai_raises_the_image_in_the_last_row() -> None:
    agree.assert_plugin_is(PAI(alpha=0.7), raised(mean=False), FAMILY, row())


def test_devils_raises_the_image_in_the_last_row() -> None:
    plugin = Devils(alpha=0.7, layers=(0, 1, 2, 3))
    agree.assert_plugin_is(plugin, raised(mean=True), FAMILY, row())


@pytest.mark.parametrize("name", ["devils", "pai", "paint", "spin", "vaf", "var"])
def test_the_first_token_is_edited(name: str) -> None:
    model = tiny.build(FAMILY)
    plain = model(**row()).logits[0, -1]
    found = agree.generate(model, row(), make(name, FAMILY), 1)[1][0]
    assert not torch.equal(found, plain)


def test_in_a_padded_batch_each_row_gets_what_it_gets_alone() -> None:
    model, lengths = tiny.build(FAMILY), (4, 0)
    batch = tiny.inputs(FAMILY, lengths)
    for name in ("pai", "spin", "vaf", "adhh"):
        together = _first(model, batch, name)
        for index in range(2):
            alone = _first(model, tiny.row(FAMILY, lengths, index), name)
            torch.testing.assert_close(together[index], alone[0], atol=1e-5, rtol=0)


def _first(model: Any, inputs: dict[str, Tensor], name: str) -> Tensor:
    import vlmheads

    with vlmheads.attach(model, make(name, FAMILY)):
        logits: Tensor = model(**inputs).logits[:, -1]
    return logits
