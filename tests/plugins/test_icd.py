"""ICD against its formula, in float64 with two streams by hand."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import streams
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.icd import ICD

import vlmheads
from vlmheads.runtime.prompt import Prompt

PREFIX = (11, 12, 13)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.5, "cutoff": 0.0, "replaced": 1}])
def test_the_next_token_is_contrasted_with_a_disturbed_instruction(
    family: str, options: dict[str, Any]
) -> None:
    values = {"alpha": 1.0, "cutoff": 0.1, "replaced": 0} | options
    row = tiny.inputs(family)
    ids = row["input_ids"][0].tolist()
    ids = [ids[0], *PREFIX, *ids[1 + values["replaced"] :]]

    def combine(_: int, clear: Tensor, disturbed: Tensor) -> Tensor:
        edited = (1 + values["alpha"]) * clear - values["alpha"] * disturbed
        return streams.cut(edited, clear, values["cutoff"])

    expected = streams.decode(family, combine, row | {"input_ids": torch.tensor([ids])})
    streams.assert_plugin_is(ICD(prefix=PREFIX, **options), family, expected)


def test_the_instruction_follows_the_first_tokens_of_each_padded_row() -> None:
    ids = torch.tensor([[0, 0, 1, 7, 60, 8], [1, 5, 7, 60, 60, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
    prompt = Prompt(ids, mask, ids == 60, {"token_type_ids": (ids == 60).long()})
    view = ICD(prefix=(11, 12), replaced=1).streams[0].view(prompt)
    assert view.ids.tolist() == [[0, 0, 1, 11, 12, 60, 8], [1, 11, 12, 7, 60, 60, 9]]
    assert view.mask.int().tolist() == [[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
    assert torch.equal(view.visual, view.ids == 60)
    assert torch.equal(view.token_types["token_type_ids"], (view.ids == 60).long())


@settings(max_examples=10, deadline=None)
@given(
    alpha=st.floats(0.1, 10),
    cutoff=st.floats(0, 1),
    prefix=st.lists(st.integers(2, 50), min_size=1, max_size=9),
)
def test_the_likeliest_token_is_never_cut_off(
    alpha: float, cutoff: float, prefix: list[int]
) -> None:
    plugin = ICD(alpha=alpha, cutoff=cutoff, prefix=tuple(prefix))
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    _, plain = agree.generate(model, row, ICD.neutral(), 1)
    _, logits = agree.generate(model, row, plugin, 1)
    assert not bool(logits.isnan().any())
    assert float(logits[0].max() - logits[0, plain[0].argmax()]) < 900


def test_a_contrast_without_an_instruction_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="without a disturbing instruction"):
        vlmheads.attach(tiny.build("llava"), "icd")


def test_an_instruction_that_is_no_list_of_token_ids_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="a list of token ids"):
        ICD(prefix="You are confused.")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"replaced": 2}, {"skip": 40}])
def test_an_instruction_in_place_of_the_image_is_refused(options: dict[str, int]) -> None:
    model = tiny.build("llava")
    with (
        vlmheads.attach(model, ICD(prefix=PREFIX, **options)),
        pytest.raises(vlmheads.VlmHeadsError, match="in front of the image"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=1)
