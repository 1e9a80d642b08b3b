"""VHR against a slow reference written from the paper's equations, and its invariants."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from slow import Edits, Slow, decode
from torch import Tensor
from vlmheads_plugins import VHR

from vlmheads import HeadMap, VlmHeadsError, attach
from vlmheads.model.geometry import Geometry

LAYERS = (1, 2, 3)


def choose(divergence: Tensor, activation: Tensor, filtered: bool) -> Tensor:
    """The heads of one layer that are reinforced: Eq. 6, then the upper half."""
    kept = divergence.clone()
    if filtered:
        loud = activation > activation.mean() + activation.std()
        kept[loud & (divergence > divergence.mean() + divergence.std())] = 0
    middle = kept.sort().values[(len(kept) - 1) // 2]
    return kept > middle


def reference(
    model: Any, row: dict[str, Tensor], alpha: float, filtered: bool, count: int = 8
) -> tuple[dict[int, list[int]], list[int], Tensor]:
    """Chosen heads by layer, tokens, and logits of a greedy decoding under VHR."""
    without: dict[int, Tensor] = {}

    def listen(layer: int, heads: Tensor) -> Tensor:
        without[layer] = heads[-1]
        return heads

    Slow(model, Edits(heads=listen)).prompt(row, images=False)
    chosen: dict[int, Tensor] = {}

    def reinforce(layer: int, heads: Tensor) -> Tensor:
        if layer not in LAYERS:
            return heads
        if layer not in chosen:
            divergence = (heads[-1] - without[layer]).square().sum(-1).sqrt()
            activation = without[layer].square().sum(-1)
            chosen[layer] = choose(divergence, activation, filtered)
        gain = torch.where(chosen[layer], alpha, 1.0)
        return heads * gain[:, None]

    tokens, logits = decode(model, row, Edits(heads=reinforce), tokens=count)
    return {layer: mask.nonzero()[:, 0].tolist() for layer, mask in chosen.items()}, tokens, logits


def generate(model: Any, row: dict[str, Tensor], plugin: VHR, **options: Any) -> Any:
    with attach(model, plugin):
        return model.generate(
            **row,
            max_new_tokens=8,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )


def heads_chosen(model: Any, row: dict[str, Tensor], plugin: VHR) -> dict[int, list[int]]:
    """The heads that the plugin scales, by layer."""
    with attach(model, plugin) as attachment:
        model(**row)
        stack = attachment.model._vlmheads
        gains = stack.installation.request.scratch(plugin)["gains"]
    return {layer: (gain[0] != 1).nonzero()[:, 0].tolist() for layer, gain in gains.items()}


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_it_does_what_the_equations_say(family: str, filtered: bool, seed: int) -> None:
    model, row = tiny.build(family), tiny.inputs(family, seed=seed)
    heads, tokens, logits = reference(model, row, 2.0, filtered)
    plugin = VHR(alpha=2.0, layers=LAYERS, filter=filtered)
    assert heads_chosen(model, row, plugin) == heads
    output = generate(model, row, plugin)
    assert output.sequences[0, -8:].tolist() == tokens
    found = torch.stack(output.logits)[:, 0].double()
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=0)


def test_the_filter_takes_a_loud_head_out() -> None:
    from vlmheads.detect.divergence import filter_negative_heads, head_divergence

    without = torch.zeros(6, 3)
    without[0] = 10.0  # loud without an image, and far from what it is with one
    current = torch.arange(1.0, 7.0)[:, None].expand(6, 3).clone()
    current[0] = -50.0
    plain = head_divergence(current, without)
    filtered = filter_negative_heads(current, without)
    assert plain[0] > plain[1:].max()
    assert filtered[0] == 0
    assert torch.equal(filtered[1:], plain[1:])


def test_the_released_filter_leaves_quiet_layers_alone() -> None:
    from vlmheads.detect.divergence import filter_negative_heads

    without = torch.zeros(6, 3)
    without[0] = 0.2
    current = torch.arange(1.0, 7.0)[:, None].expand(6, 3) * 0.01
    current = torch.cat([torch.full((1, 3), -0.5), current[1:]])
    assert filter_negative_heads(current, without, "paper")[0] == 0
    assert filter_negative_heads(current, without, "release")[0] > 0


def test_exactly_half_of_the_heads_are_chosen_without_ties() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    chosen = heads_chosen(model, row, VHR(filter=False, layers=LAYERS))
    assert {len(heads) for heads in chosen.values()} == {2}


def test_the_heads_stay_the_same_over_the_decoding_and_for_every_beam() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava", (5, 3))
    plugin = VHR(layers=LAYERS)
    with attach(model, plugin) as attachment:
        model.generate(**row, max_new_tokens=1, num_beams=3, do_sample=False)
        request = attachment.model._vlmheads.installation.request
        first = {layer: gain.clone() for layer, gain in request.scratch(plugin)["gains"].items()}
        model.generate(**row, max_new_tokens=6, num_beams=3, do_sample=False)
        request = attachment.model._vlmheads.installation.request
        last = request.scratch(plugin)["gains"]
    for layer, gains in first.items():
        assert torch.equal(gains, last[layer])
        assert all(torch.equal(sample[0], beam) for sample in gains.split(3) for beam in sample)


def test_scaling_a_head_is_scaling_its_columns_of_the_projection() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    values = torch.zeros(1, 4, 4)
    values[0, 2, 3] = 1
    geometry = Geometry("llava", 4, 4)
    with attach(model, VHR(alpha=2.0, layers=[2], head_map=HeadMap(values, geometry, "vhd"))):
        found = model(**row).logits[:, -1]
    weight = model.get_decoder().layers[2].self_attn.o_proj.weight
    kept = weight.data.clone()
    weight.data[:, 24:32] *= 2.0
    expected = model(**row).logits[:, -1]
    weight.data.copy_(kept)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_row_without_an_image_is_left_alone_beside_one_with() -> None:
    model, batch = tiny.build("llava"), tiny.inputs("llava", (5, 5))
    batch["input_ids"][1][batch["input_ids"][1] == tiny.IMAGE] = 7
    batch["pixel_values"] = batch["pixel_values"][:1]
    before = model(**batch).logits
    with attach(model, VHR()):
        during = model(**batch).logits
    assert not torch.equal(during[0], before[0])
    assert torch.equal(during[1], before[1])


@pytest.mark.parametrize(
    ("depth", "layers"),
    [(32, (1, *range(18, 32))), (40, (1, *range(22, 40))), (4, (1, 2, 3)), (1, (0,))],
)
def test_the_papers_layers_are_scaled_to_the_depth(depth: int, layers: tuple[int, ...]) -> None:
    assert VHR().chosen_layers(Geometry("llava", depth, 32)) == layers


def test_what_does_not_fit_the_model_is_refused_at_attach() -> None:
    model = tiny.build("llava")
    with pytest.raises(VlmHeadsError, match=r"layers \[7\].*indices from 0 to 3"):
        attach(model, VHR(layers=[1, 7]))
    other = HeadMap(torch.ones(1, 32, 32), Geometry("llava", 32, 32), "vhd")
    with pytest.raises(VlmHeadsError, match="32 layers of 32 heads.*4 layers of 4 heads"):
        attach(model, VHR(head_map=other))
    assert "_vlmheads" not in model.__dict__


def test_a_saved_map_is_followed(tmp_path: Any) -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    values = torch.arange(16.0).reshape(1, 4, 4)
    HeadMap(values, Geometry("llava", 4, 4), "vhd").save(tmp_path / "heads.safetensors")
    plugin = VHR(layers=[1, 3], head_map=str(tmp_path / "heads.safetensors"))
    assert heads_chosen(model, row, plugin) == {1: [2, 3], 3: [2, 3]}
