"""Methods that take their heads from a measured map."""

from __future__ import annotations

import json
from pathlib import Path

import agree
import pytest
import slow
import tiny
import torch
from active import contract_plugins, make
from torch import Tensor
from vlmheads_plugins.adhh import ADHH
from vlmheads_plugins.allpath import AllPath
from vlmheads_plugins.gains import Gains
from vlmheads_plugins.spin import SPIN

import vlmheads
from vlmheads.headmap import HeadMap
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 4, 4)


def head_map(measure: str = "attribution", factor: float = 0.0) -> HeadMap:
    """Two images whose mean is 0 to 15, in an order of its own."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5)).float()
    values = torch.stack([order - 3, order + 3]).reshape(2, 4, 4)
    return HeadMap(values, GEOMETRY, measure, {"factor": factor})


def largest_first(found: HeadMap) -> list[tuple[int, int]]:
    return [(layer, head) for layer, head, _ in found.top(16)]


def test_adhh_lists_the_heads_of_the_highest_attribution() -> None:
    expected = tuple(sorted(largest_first(head_map())[:3]))
    assert ADHH(head_map=head_map(), count=3).listed(GEOMETRY) == expected


def test_by_default_as_large_a_share_of_the_heads_is_listed_as_was_published() -> None:
    large = Geometry("llava", 32, 16)
    found = HeadMap(torch.rand(1, 32, 16), large, "attribution")
    assert len(ADHH(head_map=found).listed(large)) == 10
    assert [len(heads) for heads in AllPath(head_map=found).listed(large)] == [20, 20]


def test_allpath_suppresses_the_highest_and_boosts_the_lowest_attribution() -> None:
    order = largest_first(head_map())
    suppressed, boosted = AllPath(head_map=head_map(), count=2).listed(GEOMETRY)
    assert (set(suppressed), set(boosted)) == (set(order[:2]), set(order[-2:]))


@pytest.mark.parametrize(
    "found", [head_map("vhd"), head_map("attribution", factor=2.0)], ids=["vhd", "scaled up"]
)
def test_where_high_values_work_for_the_image_the_lowest_are_listed(found: HeadMap) -> None:
    expected = tuple(sorted(largest_first(found)[-3:]))
    assert ADHH(head_map=found, count=3).listed(GEOMETRY) == expected


def test_lists_from_a_map_act_as_the_same_lists_given() -> None:
    plugin = AllPath(head_map=head_map(), count=2)
    suppressed, boosted = plugin.listed(GEOMETRY)
    model, row = tiny.build("llava"), tiny.inputs("llava")
    by_map = agree.generate(model, row, plugin, 3)[1]
    given = agree.generate(model, row, AllPath(suppressed=suppressed, boosted=boosted), 3)[1]
    assert torch.equal(by_map, given)
    assert not torch.equal(by_map, agree.generate(model, row, AllPath.neutral(), 3)[1])


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_spin_suppresses_the_heads_that_rank_last_in_their_layer(family: str) -> None:
    found = head_map()

    def suppress(layer: int, heads: Tensor) -> Tensor:
        heads = heads.clone()
        score = found.mean()[layer].tolist()
        for head in sorted(range(4), key=lambda head: -score[head])[:2]:
            heads[-1, head] *= 0.3
        return heads

    plugin = SPIN(keep=0.5, factor=0.3, head_map=found)
    agree.assert_plugin_is(plugin, slow.Edits(heads=suppress), family)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}, {"use_cache": False}])
def test_spin_by_a_map_gives_each_row_of_a_batch_what_it_gets_alone(mode: dict[str, int]) -> None:
    model, lengths = tiny.build("llava"), (5, 3, 7)
    options = {"max_new_tokens": 5, "do_sample": False, **mode}
    with vlmheads.attach(model, SPIN(keep=0.5, head_map=head_map())):
        batch = tiny.inputs("llava", lengths)
        together = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
        for index in range(3):
            row = tiny.row("llava", lengths, index)
            alone = model.generate(**row, **options)[:, row["input_ids"].shape[1] :]
            assert torch.equal(together[index], alone[0])


def test_gains_takes_an_attribution_as_it_takes_the_factors_made_of_it(tmp_path: Path) -> None:
    head_map().save(tmp_path / "map.safetensors")
    plugin = Gains(head_map=str(tmp_path / "map.safetensors"))
    assert isinstance(plugin.head_map, HeadMap)
    assert plugin.head_map.measure == "gain"
    expected = 1 - 0.3 * head_map().mean() / 15
    assert torch.allclose(plugin.head_map.mean(), expected)


@pytest.mark.parametrize("plugin", [ADHH, AllPath, SPIN])
def test_a_measure_that_does_not_say_what_a_head_works_for_is_refused(plugin: type) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="a head map of 'gain'"):
        vlmheads.attach(tiny.build("llava"), plugin(head_map=head_map("gain")))


@pytest.mark.parametrize("plugin", [ADHH, AllPath, SPIN, Gains])
def test_a_map_of_another_model_is_refused(plugin: type) -> None:
    other = HeadMap(torch.rand(1, 4, 8), Geometry("llava", 4, 8), "attribution")
    with pytest.raises(vlmheads.VlmHeadsError, match="the head map"):
        vlmheads.attach(tiny.build("llava"), plugin(head_map=other))


def test_a_map_and_a_list_at_once_are_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="adhh: heads and head_map"):
        ADHH(heads=((0, 1),), head_map=head_map())
    with pytest.raises(vlmheads.VlmHeadsError, match="allpath: lists of heads and head_map"):
        AllPath(boosted=((0, 1),), head_map=head_map())


@pytest.mark.parametrize("count", [17, 2.5])
def test_more_heads_than_there_are_or_half_a_head_is_refused(count: float) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="a whole number from 1 to 16 heads"):
        ADHH(head_map=head_map(), count=count).on_attach(GEOMETRY)


def test_a_head_in_both_lists_of_allpath_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="at most 8"):
        AllPath(head_map=head_map(), count=9).on_attach(GEOMETRY)


@pytest.mark.parametrize("name", contract_plugins())
def test_every_plugin_describes_itself_in_json(name: str) -> None:
    plugin = make(name, "llava")
    described = json.loads(json.dumps(plugin.describe()))
    assert described["name"] == name
    assert set(described["options"]) == set(plugin.to_dict())


def test_maps_with_other_values_are_described_otherwise() -> None:
    one, other = (Gains(head_map=head_map("attribution", factor)) for factor in (0.0, 2.0))
    again = Gains(head_map=head_map())
    assert one.describe() == again.describe()
    assert one.describe() != other.describe()
