"""M3ID against its formula, in float64 with two streams by hand."""

from __future__ import annotations

import copy
import math

import agree
import pytest
import streams
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.m3id import M3ID


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(("decay", "cutoff"), [(0.02, 0.1), (0.15, 0.0), (0.0, 0.5)])
def test_the_contrast_with_the_text_grows_with_the_answer(
    family: str, decay: float, cutoff: float
) -> None:
    def combine(step: int, seeing: Tensor, blind: Tensor) -> Tensor:
        gamma = math.exp(-decay * step)
        return streams.cut(seeing + (seeing - blind) * (1 - gamma) / gamma, seeing, cutoff)

    expected = streams.decode(family, combine, images=False)
    if decay == 0:  # the cut-off alone changes no logit that it keeps
        model, row = tiny.build(family), tiny.inputs(family)
        agree.assert_same(expected, agree.generate(model, row, M3ID(decay=0.0, cutoff=cutoff)))
    else:
        streams.assert_plugin_is(M3ID(decay=decay, cutoff=cutoff), family, expected)


def test_the_first_token_is_what_it_is_without() -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plain = agree.generate(model, row, M3ID.neutral(), 1)
    found = agree.generate(model, row, M3ID(cutoff=0.0), 1)
    torch.testing.assert_close(found[1], plain[1], atol=1e-5, rtol=0)


@settings(max_examples=10, deadline=None)
@given(decay=st.floats(0, 1), cutoff=st.floats(0, 1))
def test_no_options_give_a_logit_that_is_not_a_number(decay: float, cutoff: float) -> None:
    plugin = M3ID(decay=decay, cutoff=cutoff)
    _, logits = agree.generate(tiny.build("llava-gqa"), tiny.inputs("llava-gqa"), plugin, 3)
    assert not bool(logits.isnan().any())


def test_half_precision_holds_a_large_contrast() -> None:
    model = copy.deepcopy(tiny.build("llava-gqa")).half()
    row = tiny.inputs("llava-gqa")
    row["pixel_values"] = row["pixel_values"].half()
    _, logits = agree.generate(model, row, M3ID(decay=1.0, cutoff=0.0), 30)
    assert bool(logits.isfinite().all())
    assert float(logits.amax(dim=-1).abs().max()) < 100
    assert not bool(logits.isnan().any())
