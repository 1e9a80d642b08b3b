"""VHD and T-VHD against the definition, and the map that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from slow import Edits, Slow
from torch import Tensor

import vlmheads
from vlmheads import HeadMap, VlmHeadsError
from vlmheads.detect import divergence, divergence_trace
from vlmheads.model.geometry import Geometry
from vlmheads.plotting.maps import plot_head_map


def slow_heads(model: Any, row: dict[str, Tensor], *, images: bool, tokens: list[int]) -> Tensor:
    """[1 + tokens, layers, heads, D] head outputs of the last position of each step, float64."""
    steps: list[dict[int, Tensor]] = []

    def listen(layer: int, heads: Tensor) -> Tensor:
        if layer == 0:
            steps.append({})
        steps[-1][layer] = heads[-1]
        return heads

    slow = Slow(model, Edits(heads=listen))
    slow.prompt(row, images=images)
    for token in tokens:
        slow.token(token)
    return torch.stack([torch.stack([step[layer] for layer in sorted(step)]) for step in steps])


def slow_divergence(model: Any, row: dict[str, Tensor], tokens: list[int]) -> Tensor:
    with_image = slow_heads(model, row, images=True, tokens=tokens)
    without = slow_heads(model, row, images=False, tokens=tokens)
    return (with_image - without).square().sum(-1).sqrt()


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_vhd_is_the_norm_of_the_difference_that_the_image_makes(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3, 7)
    found = divergence(model, tiny.inputs(family, lengths))
    expected = [slow_divergence(model, tiny.row(family, lengths, i), [])[0] for i in range(3)]
    assert found.values.shape == (3, 4, 4)
    torch.testing.assert_close(found.values.double(), torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_vhd_of_a_padded_batch_is_that_of_each_row_on_every_family(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3, 7)
    together = divergence(model, tiny.inputs(family, lengths)).values
    assert bool((together > 0).all())
    for index in range(3):
        alone = divergence(model, tiny.row(family, lengths, index)).values
        torch.testing.assert_close(together[index], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_measuring_leaves_the_position_offsets_of_m_rope_alone(family: str) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family)
    model.generate(**inputs, max_new_tokens=1, do_sample=False)
    before = model.model.rope_deltas.clone()
    with vlmheads.attach(model, "vhr"):
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(model.model.rope_deltas, before)


def test_a_row_without_an_image_has_no_divergence() -> None:
    model, batch = tiny.build("llava"), tiny.inputs("llava", (5, 5))
    batch["input_ids"][1][batch["input_ids"][1] == tiny.IMAGE] = 7
    batch["pixel_values"] = batch["pixel_values"][:1]
    values = divergence(model, batch).values
    assert bool((values[0] > 0).all())
    assert not values[1].any()
    text = {name: batch[name][1:] for name in ("input_ids", "attention_mask")}
    with pytest.raises(VlmHeadsError, match="without any image"):
        divergence(model, text)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_t_vhd_sums_the_largest_heads_of_every_layer_at_every_token(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3)
    trace = divergence_trace(
        model, tiny.inputs(family, lengths), k=2, max_new_tokens=5, do_sample=False
    )
    for index in range(2):
        said = trace.sequences[index, -5:].tolist()
        heads = slow_divergence(model, tiny.row(family, lengths, index), said[:-1])
        expected = heads.sort(dim=-1).values[..., -2:].sum(dim=(1, 2))
        torch.testing.assert_close(trace.heads[index].double(), heads, atol=1e-5, rtol=0)
        torch.testing.assert_close(trace.values[index].double(), expected, atol=1e-4, rtol=0)


def test_t_vhd_is_zero_after_the_end_of_a_row_and_generation_is_that_without() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", (5, 3, 7))
    plain = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    end = int(plain[0, -5])
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": end}
    plain = model.generate(**inputs, **options)
    model.generation_config.eos_token_id = end
    try:
        trace = divergence_trace(model, inputs, k=1, **options)
    finally:
        model.generation_config.eos_token_id = None
    assert trace.sequences.tolist() == plain.tolist()
    assert bool((trace.values[0, :2] > 0).all())
    assert not trace.values[0, 2:].any()


def test_a_trace_refuses_beams_and_too_many_heads() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava")
    with pytest.raises(VlmHeadsError, match="num_beams=2"):
        divergence_trace(model, inputs, k=1, num_beams=2)
    with pytest.raises(VlmHeadsError, match="prompt_lookup_num_tokens=3"):
        divergence_trace(model, inputs, k=1, prompt_lookup_num_tokens=3)
    with pytest.raises(VlmHeadsError, match="k=5.*from 1 to 4"):
        divergence_trace(model, inputs, k=5)


GEOMETRY = Geometry("llava", 2, 3)


@pytest.fixture
def head_map() -> HeadMap:
    values = torch.tensor([[[1.0, 2, 3], [4, 5, 6]], [[3.0, 2, 1], [8, 5, 2]]])
    return HeadMap(values, GEOMETRY, "vhd", {"prompt": "Describe the image."})


def test_a_map_averages_over_images_and_says_how_sure_it_is(head_map: HeadMap) -> None:
    assert head_map.mean().tolist() == [[2, 2, 2], [6, 5, 4]]
    assert head_map.standard_error().tolist() == [[1, 0, 1], [2, 0, 2]]
    assert head_map.top(2) == [(1, 0, 6.0), (1, 1, 5.0)]
    one = HeadMap(head_map.values[:1], GEOMETRY, "vhd")
    assert bool(one.standard_error().isnan().all())


def test_a_map_survives_saving(head_map: HeadMap, tmp_path: Path) -> None:
    head_map.save(tmp_path / "map.safetensors")
    loaded = HeadMap.load(tmp_path / "map.safetensors")
    assert torch.equal(loaded.values, head_map.values)
    assert (loaded.geometry, loaded.measure) == (head_map.geometry, head_map.measure)
    assert loaded.provenance == head_map.provenance


def test_maps_of_several_batches_join(head_map: HeadMap) -> None:
    joined = HeadMap.concatenate([head_map, head_map])
    assert joined.images == 4
    assert torch.equal(joined.mean(), head_map.mean())
    other = HeadMap(torch.ones(1, 2, 4), Geometry("llava", 2, 4), "vhd")
    with pytest.raises(VlmHeadsError, match="2 layers of 4 heads"):
        HeadMap.concatenate([head_map, other])


def test_what_is_no_map_is_refused(head_map: HeadMap, tmp_path: Path) -> None:
    with pytest.raises(VlmHeadsError, match="no file"):
        HeadMap.load(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(VlmHeadsError, match="is not a head map"):
        HeadMap.load(tmp_path / "text.safetensors")
    with pytest.raises(VlmHeadsError, match=r"shape \[2, 2\]"):
        HeadMap(torch.ones(2, 2), GEOMETRY, "vhd")
    with pytest.raises(VlmHeadsError, match="k=7"):
        head_map.top(7)


def test_a_map_is_drawn_with_labelled_axes(head_map: HeadMap, tmp_path: Path) -> None:
    figure = plot_head_map(head_map, tmp_path / "map.png")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("head", "layer")
    assert axes.get_title(loc="left") == "vhd, mean of 2 images"
    assert (tmp_path / "map.png").stat().st_size > 1000
