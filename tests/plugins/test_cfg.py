"""Text-only guidance against its formula, in float64 with two streams by hand."""

from __future__ import annotations

import agree
import pytest
import streams
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.cfg import CFG

import vlmheads


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(("guidance", "cutoff"), [(1.1, 0.1), (3.0, 0.0)])
def test_the_next_token_is_guided_away_from_the_text(
    family: str, guidance: float, cutoff: float
) -> None:
    def combine(_: int, seeing: Tensor, blind: Tensor) -> Tensor:
        seeing, blind = seeing.softmax(-1).log(), blind.softmax(-1).log()
        return streams.cut(guidance * seeing + (1 - guidance) * blind, seeing, cutoff)

    expected = streams.decode(family, combine, images=False)
    streams.assert_plugin_is(CFG(guidance=guidance, cutoff=cutoff), family, expected)


@settings(max_examples=10, deadline=None)
@given(guidance=st.floats(0, 10), cutoff=st.floats(0, 1))
def test_the_likeliest_token_is_never_cut_off(guidance: float, cutoff: float) -> None:
    plugin = CFG(guidance=guidance, cutoff=cutoff)
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    _, plain = agree.generate(model, row, CFG.neutral(), 1)
    _, logits = agree.generate(model, row, plugin, 1)
    assert not bool(logits.isnan().any())
    assert float(logits[0].max() - logits[0, plain[0].argmax()]) < 900


def test_two_methods_that_contrast_are_refused_together() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="both claim the site 'contrast'"):
        vlmheads.attach(tiny.build("llava"), [CFG(), "vcd"])
