"""What image tokens read as and how much they are looked at, against the slow decoder."""

from __future__ import annotations

from collections import Counter

import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads.detect.traces import token_traces

TARGETS = torch.tensor([[5, 9, 13, 4], [7, 3, 21, 63]])
WORDS = torch.tensor([[True, False, True, False], [False, True, False, True]])


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_image_tokens_are_read_in_every_layer_and_their_attention_is_counted(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3)
    found = token_traces(model, tiny.inputs(family, lengths), TARGETS, WORDS)
    for index in range(2):
        row = tiny.row(family, lengths, index)
        image = slow.image_columns(model, row).nonzero()[:, 0].tolist()
        states: dict[int, Tensor] = {}
        given = [dict[int, float]()]

        def read(layer: int, hidden: Tensor, states: dict[int, Tensor] = states) -> Tensor:
            states.setdefault(layer, hidden)  # that of the prompt
            return hidden

        def look(
            layer: int,
            weights: Tensor,
            image: list[int] = image,
            given: list[dict[int, float]] = given,
        ) -> Tensor:
            if layer == 0:
                given.append(dict.fromkeys(image, 0.0))
            for j in image:
                given[-1][j] += float(weights[:, -1, j].sum())
            return weights

        decoder = slow.Slow(model, slow.Edits(weights=look, residual=read))
        decoder.prompt(row)
        for token in TARGETS[index][:-1].tolist():
            decoder.token(token)
        head = decoder.weights["lm_head.weight"]
        for at, j in enumerate(image):
            words = [
                int((decoder.norm("norm", states[layer][j]) @ head.T).argmax())
                for layer in range(4)
            ]
            assert found[index].words[at].tolist() == words
        marked = [1 + at for at in WORDS[index].nonzero()[:, 0].tolist()]
        total = [sum(given[at][j] for at in marked) for j in image]
        expected = torch.tensor(total) * len(total) / sum(total)
        torch.testing.assert_close(found[index].attention, expected, atol=1e-5, rtol=0)
        assert max(Counter(found[index].words.flatten().tolist()).values()) > 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_batches_change_nothing(family: str) -> None:
    lengths, model = (5, 3), tiny.build(family)
    together = token_traces(model, tiny.inputs(family, lengths), TARGETS, WORDS)
    for index, both in enumerate(together):
        row = tiny.row(family, lengths, index)
        (alone,) = token_traces(model, row, TARGETS[index : index + 1], WORDS[index : index + 1])
        assert alone.words.tolist() == both.words.tolist()
        torch.testing.assert_close(alone.attention, both.attention, atol=1e-3, rtol=0)
