"""Models that run a language model inside of them on embeddings: whose tokens, and whose pixels."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from build import IMAGE, PAD, build
from folders import SQUARE, TEMPLATE, Recipe, tokenizer
from inputs import alone, inputs, row_of
from PIL import Image
from probes import ByHand, Idle, Negative, Scaled, Sharper
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from vlmheads import Captioner, VlmHeadsError, attach
from vlmheads.detect import divergence
from vlmheads.grounding.measure import grounding
from vlmheads.verify.probes import StreamProbe

FAMILIES = ("blip-2", "instructblip+llama")
LENGTHS = (5, 3)
MASK = "attention_mask"


@cache
def model_of(family: str) -> Any:
    if family.partition("+")[0] not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        pytest.skip(f"transformers without {family}")
    return build(family, row_of(family).changes)


def logits(model: Any, given: dict[str, Any], **options: Any) -> torch.Tensor:
    output = model.generate(
        **given,
        **options,
        max_new_tokens=3,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(output.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_of_the_whole_model_is_the_first_step_of_its_generation(family: str) -> None:
    model, given = model_of(family), inputs(model_of(family), family, LENGTHS)
    probe = StreamProbe()
    with attach(model, [Sharper(), probe]):
        first = logits(model, given)[0]
        forward = model(**given).logits[:, -1]
    torch.testing.assert_close(forward, first, atol=2e-4, rtol=0)
    torch.testing.assert_close(probe.steps[-1], probe.steps[0], atol=2e-4, rtol=0)
    assert not torch.allclose(forward, model(**given).logits[:, -1])


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_see_the_changed_images_of_their_own_sample(family: str) -> None:
    model, given = model_of(family), inputs(model_of(family), family, LENGTHS)
    probe = Negative()
    with attach(model, probe):
        logits(model, given, num_beams=2)
    truth = model(**given | {"pixel_values": -given["pixel_values"]}).logits[:, -1]
    torch.testing.assert_close(probe.seen[0], truth.repeat_interleave(2, 0), atol=5e-4, rtol=0)


def test_a_prompt_that_the_model_makes_itself_is_served() -> None:
    model, given = model_of("blip-2"), alone(model_of("blip-2"), "blip-2", LENGTHS, 0)
    pixels = {"pixel_values": given["pixel_values"]}
    plain = logits(model, pixels)
    with attach(model, Sharper()):
        torch.testing.assert_close(logits(model, pixels)[0], 2 * plain[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_divergence_is_measured_and_a_copy_stays_attached(family: str) -> None:
    model, given = model_of(family), inputs(model_of(family), family, LENGTHS)
    assert bool((divergence(model, given).values > 0).any())
    plain = logits(model, given)
    with attach(model, Sharper()):
        other = copy.deepcopy(model)
    torch.testing.assert_close(logits(other, given)[0], 2 * plain[0], atol=2e-4, rtol=0)
    assert torch.equal(logits(model, given), plain)


@cache
def gapped(family: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A batch as the processors make it, padded between image and text, and its rows alone."""
    words = [[3, 9, 27, 14, 5, 8], [7, 11, 30]]
    images = inputs(model_of(family), family, LENGTHS)
    images = {name: value for name, value in images.items() if name not in ("input_ids", MASK)}

    def prompt(index: int, pad: int) -> torch.Tensor:
        return torch.tensor([[IMAGE] * 4 + [PAD] * pad + words[index]])

    rows = [
        {"input_ids": ids, MASK: (ids != PAD).long()}
        | {name: value[index : index + 1] for name, value in images.items()}
        for index in range(2)
        for ids in [prompt(index, 0)]
    ]
    ids = torch.cat([prompt(0, 0), prompt(1, 3)])
    return images | {"input_ids": ids, MASK: (ids != PAD).long()}, rows


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_between_image_and_text_changes_nothing(family: str) -> None:
    model, (batch, rows) = model_of(family), gapped(family)
    gains = torch.linspace(0, 2, 16).reshape(4, 4)
    targets = torch.tensor([[5, 6], [7, 8]])
    probe = StreamProbe()
    with attach(model, [Scaled(gains=gains), ByHand(bias=-2.0), probe]):
        together = logits(model, batch)
        alone = torch.cat([logits(model, row) for row in rows], dim=1)
    torch.testing.assert_close(together, alone, atol=5e-4, rtol=0)
    seen = probe.steps
    for step in range(3):
        apart = torch.cat([seen[3 + step], seen[6 + step]])
        torch.testing.assert_close(seen[step], apart, atol=5e-4, rtol=0)
    one = grounding(model, batch, targets).divergence
    other = [grounding(model, row, targets[[n]]).divergence for n, row in enumerate(rows)]
    torch.testing.assert_close(one, torch.cat(other), atol=1e-4, rtol=1e-3)
    with pytest.raises(VlmHeadsError, match="without position ids"):
        divergence(model, batch)


def _altered(model: Any, given: dict[str, Any]) -> None:
    embeds = model.get_input_embeddings()(given["input_ids"])
    model.generate(**given, inputs_embeds=embeds.roll(1, dims=1), max_new_tokens=1)


def _inside(model: Any, given: dict[str, Any]) -> None:
    embeds = model.get_input_embeddings()(given["input_ids"])
    model.language_model.generate(inputs_embeds=embeds, max_new_tokens=1)


def _drafted(model: Any, given: dict[str, Any]) -> None:
    model.generate(**given, max_new_tokens=3, do_sample=False, prompt_lookup_num_tokens=2)


@pytest.mark.parametrize(
    ("act", "seen"),
    [
        (_altered, "not those of the prompt's tokens"),
        (_inside, "a prompt of embeddings"),
        (_drafted, "prompt lookup on"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_whose_tokens_are_not_known_are_refused(
    family: str, act: Any, seen: str
) -> None:
    model, given = model_of(family), alone(model_of(family), family, LENGTHS, 0)
    with attach(model, Idle()), pytest.raises(VlmHeadsError) as error:
        act(model, given)
    assert seen in error.value.seen


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_of_a_real_processor_with_a_template(family: str) -> None:
    name = "Blip2Processor" if family == "blip-2" else "InstructBlipProcessor"
    recipe = Recipe(name, ("BlipImageProcessor", {"size": SQUARE}), {IMAGE: "<image>"}, "")
    extra = {} if family == "blip-2" else {"qformer_tokenizer": tokenizer(recipe)}
    processor = getattr(transformers, name)(
        transformers.BlipImageProcessor(size=SQUARE),
        tokenizer(recipe),
        num_query_tokens=4,
        **extra,
    )
    pictures = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    captioner = Captioner(model_of(family), processor, [Sharper(), StreamProbe()])
    with pytest.raises(VlmHeadsError, match="chat template"):
        captioner(pictures)
    processor.chat_template = TEMPLATE % ""
    options: dict[str, Any] = {"max_new_tokens": 4, "suppress_tokens": list(range(55, 64))}
    prompts = ["Is there a dog ?", "Describe the large house on the left ."]
    both = captioner.generate(captioner.prepare(pictures, prompts), **options)
    for picture, prompt, caption in zip(pictures, prompts, both, strict=True):
        alone = captioner.generate(captioner.prepare(picture, prompt), **options)
        assert alone == [caption]
        assert caption.tokens == 4
