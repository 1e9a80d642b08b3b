"""What layers give the tokens of an answer, against a slow decoder."""

from __future__ import annotations

from typing import Any

import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads import VlmHeadsError
from vlmheads.detect.overconfidence import SHARES, Overconfidence, overconfidence

TARGETS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
GROUNDED = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]).bool()
HALLUCINATED = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 0]]).bool()
LENGTHS = (5, 3)


def measured(family: str = "llava", **more: Any) -> Overconfidence:
    inputs = tiny.inputs(family, LENGTHS)
    return overconfidence(tiny.build(family), inputs, TARGETS, GROUNDED, HALLUCINATED, **more)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_layers_are_read_at_the_positions_before_the_words(family: str) -> None:
    found = measured(family)
    place = 0
    for index in range(2):
        steps: list[list[Tensor]] = []

        def keep(layer: int, hidden: Tensor, into: Any = steps) -> Tensor:
            if layer == 0:
                into.append([])
            into[-1].append(hidden[-1])
            return hidden

        decoder = slow.Slow(tiny.build(family), slow.Edits(residual=keep))
        decoder.prompt(tiny.row(family, LENGTHS, index))
        for token in TARGETS[index, :-1].tolist():
            decoder.token(token)

        def log(state: Tensor, token: int, by: Any = decoder) -> float:
            logits = by.norm("norm", state[None])[0] @ by.weights["lm_head.weight"].T
            return float(logits.log_softmax(-1)[token])

        for at, token in enumerate(TARGETS[index].tolist()):
            if not (GROUNDED | HALLUCINATED)[index, at]:
                continue
            expected = [log(state, token) for state in steps[at]]
            assert found.by_layer[place].tolist() == pytest.approx(expected, abs=1e-5)
            last, before = steps[at][3], steps[at][2]
            undone = [log((1 - a) * last + a * before, token) for a in SHARES]
            assert found.undone[place].tolist() == pytest.approx(undone, abs=1e-5)
            assert int(found.kind[place]) == int(HALLUCINATED[index, at])
            suppressed = max(expected[:-1]) - expected[-1]
            assert float(found.suppression[place]) == pytest.approx(suppressed, abs=1e-5)
            assert float(found.last_step[place]) == pytest.approx(
                expected[-1] - expected[-2], abs=1e-5
            )
            place += 1
    assert place == len(found.kind) == 5


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_last_layer_gives_the_models_own_on_every_family(family: str) -> None:
    found = measured(family, words=torch.ones(2, 4))
    torch.testing.assert_close(found.undone[:, 0], found.by_layer[:, -1])
    torch.testing.assert_close(found.undone[:, -1], found.by_layer[:, -2])
    assert [len(found.of(kind, found.kind)) for kind in ("grounded", "hallucinated", "other")] == [
        3, 2, 3,
    ]  # fmt: skip


def test_nothing_to_measure_is_refused() -> None:
    none, inputs = GROUNDED & False, tiny.inputs("llava", LENGTHS)
    with pytest.raises(VlmHeadsError, match="without a token to measure"):
        overconfidence(tiny.build("llava"), inputs, TARGETS, none, none)
