"""Kinds of options: what each takes, what the plugin then holds, and what a model refuses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from vlmheads_plugins.adhh import ADHH
from vlmheads_plugins.deco import DeCo
from vlmheads_plugins.gains import Gains
from vlmheads_plugins.spin import SPIN
from vlmheads_plugins.vhr import VHR

from vlmheads import HeadMap, VlmHeadsError
from vlmheads.entries import installed
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.registry import get_plugin, parse_plugin

GEOMETRY = Geometry("llava", 4, 4)
HYBRID = Geometry("lfm2", 4, 4, attention_layers=(1, 3))


@dataclass(frozen=True)
class Old(Plugin):
    """A plugin as third parties have declared theirs: without kinds."""

    name: ClassVar[str] = "old"

    gain: float = option(1.0, "a number", low=0.0, high=2.0)
    free: float = option(1.0, "any number")
    steps: int = option(3, "a whole number", low=1, high=9)
    exact: bool = option(False, "yes or no")
    mode: str = option("a", "one of two", choices=("a", "b"))
    note: str = option("", "text")
    share: float | None = option(None, "a number or none", low=0, high=1)
    thing: Any = option(None, "whatever")
    things: tuple[Any, ...] = option((), "whatever")


@dataclass(frozen=True)
class New(Old):
    """One option of each kind that has to be named."""

    name: ClassVar[str] = "new"

    layers: tuple[int, ...] | None = option(None, "layers", kind="layers")
    heads: tuple[tuple[int, int], ...] = option((), "heads", kind="heads")
    ids: tuple[int, ...] = option((), "tokens", kind="tokens")
    dims: tuple[int, ...] | None = option(None, "dimensions", kind="indices")
    file: Path | None = option(None, "a file", kind="path")
    most: int | None = option(None, "a whole number or none", kind="int", low=1)
    head_map: HeadMap | None = option(None, "a map", kind="head_map", measures=("vhd",))

    def on_heads(self, request: Any, layer: int, heads: Tensor) -> Tensor:
        return heads


def head_map(measure: str = "vhd", geometry: Geometry = GEOMETRY) -> HeadMap:
    return HeadMap(torch.rand(1, geometry.layers, geometry.heads), geometry, measure)


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"gain": 2}, 2),
        ({"free": -1e9}, -1e9),
        ({"exact": True}, True),
        ({"mode": "b"}, "b"),
        ({"note": "x"}, "x"),
        ({"share": None}, None),
        ({"share": 0.5}, 0.5),
        ({"thing": {"a": 1}}, {"a": 1}),
        ({"things": [1]}, [1]),
        ({"layers": [3, 1, 1]}, (1, 3)),
        ({"layers": range(2)}, (0, 1)),
        ({"heads": ["2-1", [0, 3]]}, ((0, 3), (2, 1))),
        ({"heads": None}, ()),
        ({"ids": [7, 3, 3]}, (7, 3, 3)),
        ({"dims": (9, 2)}, (2, 9)),
        ({"file": "a/b"}, "a/b"),
        ({"most": 3}, 3),
    ],
)
def test_a_value_is_brought_to_its_form(given: dict[str, Any], held: Any) -> None:
    (name,) = given
    found = getattr(New.from_dict(given), name)
    assert found == held
    assert type(found) is type(held)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gain": 3}, "new: gain=3; expected a number from 0 to 2"),
        ({"gain": "2"}, "gain='2'; expected a number"),
        ({"gain": True}, "a number"),
        ({"gain": None}, "a number"),
        ({"free": float("inf")}, "a finite number"),
        ({"steps": 2.0}, "a whole number"),
        ({"steps": 0}, "a whole number from 1 to 9"),
        ({"most": 0}, "a whole number from 1 on"),
        ({"most": 2.5}, "a whole number"),
        ({"exact": 1}, "true or false"),
        ({"mode": "c"}, "one of 'a', 'b'"),
        ({"note": 5}, "text"),
        ({"share": 2}, "a number from 0 to 1"),
        ({"layers": []}, "a list of layer indices"),
        ({"layers": [-1]}, "a list of layer indices"),
        ({"layers": [True]}, "a list of layer indices"),
        ({"layers": 3}, "a list of layer indices"),
        ({"heads": [[1]]}, "a list of heads"),
        ({"heads": 5}, "a list of heads"),
        ({"ids": [1.5]}, "a list of token ids"),
        ({"dims": []}, "a list of indices"),
        ({"file": 5}, "a path"),
        ({"head_map": 5}, "a HeadMap object, or the path of a saved one"),
        ({"head_map": "nowhere"}, "no file nowhere"),
    ],
)
def test_what_a_kind_does_not_take_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(VlmHeadsError, match=message):
        New.from_dict(given)


@pytest.mark.parametrize("name", sorted(installed()))
def test_no_built_in_takes_a_number_for_a_map_or_a_file(name: str) -> None:
    plugin = get_plugin(name)
    for field in fields(plugin):
        assert field.metadata["kind"] != "any", field.name
        if field.metadata["kind"] in ("head_map", "path"):
            with pytest.raises(VlmHeadsError, match=f"{name}: {field.name}=5; expected a"):
                parse_plugin(f"{name}:{field.name}=5")


def test_one_is_not_true() -> None:
    assert VHR(filter=True).filter is True
    with pytest.raises(VlmHeadsError, match="filter=0"):
        VHR(filter=0)  # type: ignore[arg-type]


def test_a_map_is_read_from_its_file_and_described_by_its_digest(tmp_path: Path) -> None:
    saved = head_map()
    saved.save(tmp_path / "map.safetensors")
    plugin = New(head_map=str(tmp_path / "map.safetensors"))  # type: ignore[arg-type]
    assert isinstance(plugin.head_map, HeadMap)
    assert plugin.describe()["options"]["head_map"] == f"HeadMap {saved.digest}"


@pytest.mark.parametrize("plugin", [VHR, SPIN, ADHH, Gains])
def test_a_map_of_no_numbers_is_refused(plugin: Any) -> None:
    measure = "gain" if plugin is Gains else "vhd"
    nothing = HeadMap(torch.full((1, 4, 4), torch.nan), GEOMETRY, measure)
    with pytest.raises(VlmHeadsError, match="not a number for 16 of 16 heads"):
        plugin(head_map=nothing)


def test_vhr_does_not_reinforce_by_a_measure_in_which_high_is_bad() -> None:
    with pytest.raises(VlmHeadsError, match="vhr: head_map, a head map of 'attribution'.*'vhd'"):
        VHR(head_map=head_map("attribution"))
    assert VHR(head_map=head_map("image-attention")).head_map is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": [4]}, r"new: layers names layers \[4\]"),
        ({"heads": [[0, 4]]}, r"new: heads names \(layer, head\) \[\(0, 4\)\]"),
        ({"head_map": head_map("vhd", Geometry("llava", 2, 4))}, "new: the head map was made for"),
    ],
)
def test_a_model_that_the_options_do_not_fit_is_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(VlmHeadsError, match=message):
        New.from_dict(given).fit(GEOMETRY)


def test_a_model_is_refused_where_what_was_to_be_learned_is_missing_and_needed() -> None:
    @dataclass(frozen=True)
    class Taught(Plugin):
        table: Any = option(
            None, "a table", kind="learned", method="deco", needed_by=("near", "far")
        )
        near: float = option(0.0, "a strength")
        far: float = option(0.0, "another")

    for given in ({"near": 1.0}, {"far": 0.5}):
        with pytest.raises(VlmHeadsError, match=r"Taught without table.*vlmheads learn deco"):
            Taught.from_dict(given).fit(GEOMETRY)
    Taught().fit(GEOMETRY)


def test_layers_and_heads_where_there_is_no_attention_are_refused() -> None:
    with pytest.raises(VlmHeadsError, match=r"layers \[2\], which have no attention heads"):
        New(layers=(1, 2)).fit(HYBRID)
    with pytest.raises(VlmHeadsError, match=r"heads names \(layer, head\) \[\(0, 1\)\]"):
        New(heads=((0, 1), (3, 1))).fit(HYBRID)
    New(layers=(1, 3), heads=((3, 0),)).fit(HYBRID)
    # A method that reads hidden states may name any layer.
    DeCo(layers=(0, 2)).fit(HYBRID)


def test_a_geometry_is_the_same_with_all_layers_named_and_survives_saving() -> None:
    assert Geometry("llava", 4, 4, attention_layers=(0, 1, 2, 3)) == GEOMETRY
    assert "attention_layers" not in GEOMETRY.to_dict()
    assert Geometry(**HYBRID.to_dict()) == HYBRID != GEOMETRY
    assert Geometry(**(HYBRID.to_dict() | {"attention_layers": [1, 3]})) == HYBRID


@pytest.mark.parametrize(
    "text",
    [
        "act:threshold=0.2",
        "act:form=release,alpha=3",
        "act:heads=[[0,1]],layers=[0]",
        "adhh:count=3",
        "allpath:boosted=[[0,1]],low=0.5",
        "allpath:suppressed=[[0,1]],count=3",
        "dola:half=upper,layers=[1]",
        "pai:cutoff=0.2",
        "paint:cutoff=0.2",
        "vaf:heads=[[0,1]],layers=[0]",
        "zerotuning:heads=[[0,1]],layers=[0]",
    ],
)
def test_an_option_without_effect_is_refused(text: str) -> None:
    with pytest.raises(VlmHeadsError, match="has no effect; expected it with"):
        parse_plugin(text)


def test_a_filter_of_what_is_not_measured_is_refused() -> None:
    with pytest.raises(VlmHeadsError, match="filter='release' has no effect"):
        VHR(filter="release", head_map=head_map())
    assert VHR(filter="paper", head_map=head_map()).filter == "paper"
