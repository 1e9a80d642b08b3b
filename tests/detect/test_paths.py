"""Text paths against their formula, one head and one token at a time, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.allpath import AllPath

from vlmheads import VlmHeadsError
from vlmheads.detect import text_paths

TARGETS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
GROUNDED = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]).bool()
HALLUCINATED = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 1]]).bool()
LENGTHS = (5, 3)


def by_formula(family: str) -> Tensor:
    """Scores [L, H] from a decoder that shares no code with the library."""
    model = tiny.build(family)
    layers = model.get_decoder().layers
    changes: dict[int, list[Tensor]] = {0: [], 1: []}
    for index in range(2):
        entering: dict[int, Tensor] = {}
        outputs: dict[int, Tensor] = {}
        steps: list[Tensor] = []

        def keep(layer: int, heads: Tensor, into: Any = outputs) -> Tensor:
            into[layer] = heads[-1]
            return heads

        def after(layer: int, hidden: Tensor, into: Any = entering) -> Tensor:
            into[layer + 1] = hidden[-1]
            return hidden

        decoder = slow.Slow(model, slow.Edits(heads=keep, residual=after))
        embed, unembed = decoder.weights["embed_tokens.weight"], decoder.weights["lm_head.weight"]
        row = tiny.row(family, LENGTHS, index)
        last = int(row["input_ids"][0, -1])
        for step, token in enumerate(TARGETS[index].tolist()):
            if step == 0:
                decoder.prompt(row)
            else:
                last = int(TARGETS[index, step - 1])
                decoder.token(last)
            entering[0] = embed[last]
            scores = torch.zeros(4, 4, dtype=torch.float64)
            for layer in range(4):
                weight = layers[layer].self_attn.o_proj.weight.double()
                plain = (unembed @ entering[layer]).log_softmax(0)[token]
                for head in range(4):
                    added = weight[:, 8 * head : 8 * head + 8] @ outputs[layer][head]
                    with_it = (unembed @ (entering[layer] + added)).log_softmax(0)[token]
                    scores[layer, head] = with_it - plain
            steps.append(scores.detach())
        for kind, marked in enumerate((GROUNDED, HALLUCINATED)):
            changes[kind] += [s for s, m in zip(steps, marked[index].tolist(), strict=True) if m]
    return torch.stack(changes[0]).mean(dim=0) - torch.stack(changes[1]).mean(dim=0)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_scores_are_those_of_the_formula_and_list_heads(family: str) -> None:
    inputs = tiny.inputs(family, LENGTHS)
    found = text_paths(tiny.build(family), inputs, TARGETS, GROUNDED, HALLUCINATED)
    expected = by_formula(family)
    torch.testing.assert_close(found.mean().double(), expected, atol=1e-5, rtol=0)
    plugin = AllPath(head_map=found, count=2)
    lowest = expected.flatten().argsort()[:2].tolist()
    assert plugin.listed(found.geometry)[0] == tuple(divmod(index, 4) for index in lowest)


def test_words_of_one_kind_alone_are_refused() -> None:
    inputs, none = tiny.inputs("llava", LENGTHS), torch.zeros(2, 4).bool()
    with pytest.raises(VlmHeadsError, match="without a hallucinated word"):
        text_paths(tiny.build("llava"), inputs, TARGETS, GROUNDED, none)
