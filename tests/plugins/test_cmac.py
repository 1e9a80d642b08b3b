"""CMAC against its formulas, in float64 with two streams by hand."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import streams
import tiny
import torch
from torch import Tensor
from vlmheads_plugins import cmac
from vlmheads_plugins.cmac import BLANK, CMAC

import vlmheads


class Blank:
    """A stream whose text reads one number from the image tokens with the highest scores."""

    def __init__(self, family: str) -> None:
        self.model, self.row = tiny.build(family), tiny.inputs(family)
        self.image = slow.image_columns(self.model, self.row).nonzero()[:, 0].tolist()
        self.marks = set[int]()

    def begin(self, side: slow.Slow) -> Tensor:
        self.side = side
        side.edits = slow.Edits(
            scores=self.keep_scores, weights=self.keep_weights, heads=self.heads
        )
        return side.prompt(self.row)

    def keep_scores(self, _: int, scores: Tensor) -> Tensor:
        self.scores = scores
        return scores

    def keep_weights(self, _: int, weights: Tensor) -> Tensor:
        self.weights = weights
        return weights

    def heads(self, layer: int, heads: Tensor) -> Tensor:
        values = torch.stack(self.side.values[layer])  # [K, Hkv, D]
        before = values.shape[0] - len(heads)
        text = [i for i in range(len(heads)) if before + i > self.image[-1]]
        block = [float(head[i, j]) for head in self.scores for i in text for j in self.image]
        limit = sum(block) / len(block)
        group = heads.shape[1] // values.shape[1]
        made = heads.clone()
        for h in range(heads.shape[1]):
            own = values[:, h // group]
            number = float(sum(own[j].sum() for j in self.image)) / len(self.image) / own.shape[1]
            for i in text:
                made[i, h] = 0
                for j in range(before + i + 1):
                    share = self.weights[h, i, j]
                    if j in self.image and float(self.scores[h, i, j]) > limit:
                        made[i, h] += share * number
                        self.marks.add(j)
                    else:
                        made[i, h] += share * own[j]
        return made


def contrasted(values: dict[str, Any], one: Tensor, other: Tensor, acts: bool = True) -> Tensor:
    alpha = values["alpha"] if acts else 0
    return streams.cut((1 + alpha) * one - alpha * other, one, values["cutoff"])


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("options", [{}, {"alpha": 1.0, "cutoff": 0.0}])
def test_the_next_token_is_contrasted_with_an_image_that_says_little(
    family: str, options: dict[str, Any]
) -> None:
    values, side = {"alpha": 3.0, "cutoff": 0.2} | options, Blank(family)
    expected = streams.decode(
        family, lambda _, one, other: contrasted(values, one, other), begin=side.begin
    )
    assert side.marks
    streams.assert_plugin_is(CMAC(**options), family, expected)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_the_gate_compares_with_the_first_tokens(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmac, "FIRST", 3)
    values, side = {"alpha": 1.0, "cutoff": 0.0}, Blank(family)
    looked, opened = list[float](), list[bool]()
    model, row = tiny.build(family), tiny.inputs(family)
    sums: list[float] = []

    def watch(layer: int, scores: Tensor) -> Tensor:
        parts = [float(head[-1, j]) for head in scores for j in side.image]
        if layer == 0:
            sums.clear()
        sums.append(sum(parts) / len(parts))
        return scores

    main, other = slow.Slow(model, slow.Edits(scores=watch)), slow.Slow(model)
    one, two = main.prompt(row), side.begin(other)
    said, logits = list[int](), list[Tensor]()
    for step in range(10):
        looked.append(sum(sums) / len(sums))
        opened.append(step < 3 or looked[step] >= sum(looked[:3]) / 3)
        logits.append(slow.settled(contrasted(values, one, two, opened[-1]), one))
        said.append(int(logits[-1].argmax()))
        one, two = main.token(said[-1]), other.token(said[-1])
    assert set(opened[3:]) == {True, False}
    found = agree.generate(model, row, CMAC(form="release", **values), 10)
    agree.assert_same((said, torch.stack(logits)), found)


def test_what_the_gate_remembers_follows_its_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmac, "FIRST", 3)
    agree.assert_state_follows_beams(CMAC(alpha=1.0, cutoff=0.0, form="release"))


def test_a_stream_that_marks_nothing_says_what_the_model_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plain = agree.generate(model, row, CMAC.neutral())
    monkeypatch.setattr(cmac, "_blank", lambda request, layer, rows: rows.outputs())
    found = agree.generate(model, row, CMAC(alpha=5.0, cutoff=0.0))
    assert plain[0] == found[0]
    torch.testing.assert_close(found[1], plain[1], atol=1e-4, rtol=0)


def test_a_stream_of_another_prompt_cannot_attend_in_its_own_way() -> None:
    from vlmheads.runtime.streams import Stream

    class Elsewhere(CMAC):
        @property
        def streams(self) -> tuple[Stream, ...]:
            return (Stream(BLANK, lambda prompt: prompt.without_images(), attend=cmac._blank),)

    model = tiny.build("llava")
    with (
        vlmheads.attach(model, Elsewhere()),
        pytest.raises(vlmheads.VlmHeadsError, match="another prompt"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=1)
