"""Layers with heads and layers without: what a geometry says, and what a head map holds."""

from __future__ import annotations

import math

import pytest
import torch
from case import Case

from vlmheads import HeadMap, VlmHeadsError
from vlmheads.detect.divergence import divergence
from vlmheads.model.geometry import Geometry

HYBRID = Geometry("hybrid", 8, 4, (1, 3, 5, 7))


def test_layers_have_heads_unless_it_is_said() -> None:
    plain = Geometry("plain", 3, 4)
    assert (plain.attention_layers, plain.bare_layers) == ((0, 1, 2), ())
    assert plain == Geometry(**plain.to_dict())
    assert Geometry(**HYBRID.to_dict()) == HYBRID
    assert HYBRID.bare_layers == (0, 2, 4, 6)


def test_default_ranges_run_over_the_layers_that_have_heads() -> None:
    assert HYBRID.scaled(16, 32) == (5, 7)
    assert HYBRID.scaled(16, 32, attention=False) == (4, 5, 6, 7)
    assert Geometry("plain", 32, 4).scaled(5, 18) == tuple(range(5, 18))


def test_naming_a_layer_without_heads_is_an_error() -> None:
    HYBRID.check_layers((0, 1), "layers")
    with pytest.raises(VlmHeadsError, match=r"names layers \[0\], which have no attention heads"):
        HYBRID.check_layers((0, 1), "layers", attention=True)
    with pytest.raises(VlmHeadsError, match=r"\(2, 0\)"):
        HYBRID.check_heads(((1, 0), (2, 0)), "heads")


@pytest.mark.filterwarnings("ignore")
def test_a_map_of_a_hybrid_decoder_holds_no_number_where_there_is_no_head() -> None:
    case = Case("qwen3_5")
    geometry = case.anatomy.geometry
    assert geometry.bare_layers
    found = divergence(case.model, case.given("row 0"))
    empty = found.values.isnan().all(dim=(0, 2)).nonzero().flatten().tolist()
    assert empty == list(geometry.bare_layers)
    assert not bool(found.values[:, list(geometry.attention_layers)].isnan().any())
    heads = len(geometry.attention_layers) * geometry.heads
    best = found.top(heads)
    assert {layer for layer, _, _ in best} == set(geometry.attention_layers)
    assert not any(math.isnan(value) for _, _, value in best)
    with pytest.raises(VlmHeadsError, match=f"from 1 to {heads} heads"):
        found.top(heads + 1)


def test_a_map_with_empty_layers_is_drawn_and_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from vlmheads.plotting.maps import plot_head_map

    values = torch.rand(2, 8, 4)
    values[:, list(HYBRID.bare_layers)] = torch.nan
    given = HeadMap(values, HYBRID, "vhd")
    given.save(tmp_path / "map.safetensors")
    assert HeadMap.load(tmp_path / "map.safetensors").geometry == HYBRID
    plot_head_map(given, path=tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 0
