from __future__ import annotations

import torch
from vlmheads_demo.services.images import draw_scene
from vlmheads_demo.services.measurement import edited_heads, vision_aware_heads

from vlmheads import attach
from vlmheads.detect import divergence
from vlmheads.registry import resolve
from vlmheads.runtime.attachment import ATTACHED

PROMPT = "Describe the image."
SCENE = "counterfactual:9"


def test_edited_heads_are_those_that_the_method_changes(model):
    inputs = model.captioner.prepare([draw_scene(SCENE).image], PROMPT)
    network = model.captioner.model
    all_heads = torch.ones(8, 8, dtype=torch.bool)
    first = torch.zeros(8, 8, dtype=torch.bool)
    first[2, 3] = first[5, 1] = True
    listed = resolve("allpath:suppressed=[[2,3],[5,1]]")
    assert torch.equal(edited_heads(network, inputs, listed), first)
    assert torch.equal(edited_heads(network, inputs, resolve("pai")), all_heads)
    assert not edited_heads(network, inputs, resolve("cfg")).any()
    assert not edited_heads(network, inputs, resolve("vhr:alpha=1.0")).any()
    assert not hasattr(network, ATTACHED)


def test_vhr_edits_heads_above_the_median_of_its_layers(model, result):
    edited = result.captions[1].measured.edited
    (vhr,) = resolve("vhr")
    layers = vhr.chosen_layers(model.geometry)
    assert set(edited.any(dim=1).nonzero()[:, 0].tolist()) == set(layers)
    assert all(1 <= int(edited[layer].sum()) <= 4 for layer in layers)


def test_the_prompt_map_is_that_of_the_detector(model, result):
    inputs = model.captioner.prepare([draw_scene(SCENE).image], PROMPT)
    expected = divergence(model.captioner.model, inputs).mean()
    assert torch.equal(expected, result.prompt_measured.divergence)


def test_an_overlay_is_the_attention_of_the_row_before_the_word(model, result):
    one = result.captions[0]
    number = next(n for n, word in enumerate(one.measured.words) if word.object)
    word = one.measured.words[number]
    inputs = dict(model.captioner.prepare([draw_scene(SCENE).image], PROMPT))
    ids = torch.tensor([one.caption.ids])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    network = model.captioner.model
    network.set_attn_implementation("eager")
    with torch.no_grad():
        maps = network(**inputs, output_attentions=True, use_cache=False).attentions
    network.set_attn_implementation("sdpa")
    image = (inputs["input_ids"][0] == network.config.image_token_id).nonzero()[:, 0]
    rows = slice(-len(one.caption.ids) - 1 + word.first, -len(one.caption.ids) - 1 + word.last)
    expected = maps[3][0, 5, rows][:, image].mean(dim=0)
    found = one.measured.attention(number, (3, 5))
    assert torch.allclose(expected, found, atol=1e-3)


def test_the_mean_overlay_is_of_an_eighth_of_the_heads(result):
    one = result.captions[0]
    number = next(n for n, word in enumerate(one.measured.words) if word.object)
    chosen = vision_aware_heads(one.measured.heads[number])
    assert int(chosen.sum()) == 8
    expected = one.measured.patches[number][chosen].float().mean(dim=0)
    assert torch.equal(expected, one.measured.attention(number))


def test_measuring_leaves_nothing_attached(model, result):
    assert not hasattr(model.captioner.model, ATTACHED)
    with attach(model.captioner.model, "vhr"):
        pass
