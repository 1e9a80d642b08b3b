"""What a Captioner takes, what it gives `model.generate`, and what it reads from the answer."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import accelerate
import folders
import numpy as np
import pytest
import tiny
import torch
import transformers as t
from PIL import Image
from vlmheads_testbed.scenes import scene

from vlmheads import Captioner, VlmHeadsError, attach
from vlmheads.decoding import Decoding
from vlmheads.model.inputs import input_device


@cache
def captioner() -> Captioner:
    return Captioner.from_pretrained("embedded", ())


@cache
def pictures(count: int = 3) -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(scene("test", 5, index).pixels) for index in range(count))


class After(t.StoppingCriteria):
    """Ends the given rows after a number of tokens, counted from the first call."""

    def __init__(self, tokens: int, rows: tuple[int, ...] = (0, 1, 2)) -> None:
        self.tokens, self.rows, self.calls = tokens, rows, 0

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.calls += 1
        rows = torch.arange(len(ids))
        return torch.isin(rows, torch.tensor(self.rows)) & (self.calls >= self.tokens)


def stopped_after(tokens: int, rows: tuple[int, ...] = (0, 1, 2)) -> t.StoppingCriteriaList:
    return t.StoppingCriteriaList([After(tokens, rows)])


def test_one_image_of_any_kind_is_a_list_of_one(tmp_path: Path) -> None:
    picture = pictures()[0]
    path = tmp_path / "scene.png"
    picture.save(path)
    kinds = [path, str(path), picture, np.asarray(picture), np.asarray(picture) / 255]
    found = [captioner()(kind, max_new_tokens=12) for kind in kinds]
    assert all(captions == found[0] for captions in found)
    assert len(found[0]) == 1


def test_several_images_of_any_kind_are_several_captions(tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    pictures()[0].save(path)
    arrays = np.stack([np.asarray(picture) for picture in pictures()])
    expected = captioner()(list(pictures()), max_new_tokens=12)
    assert captioner()(arrays, max_new_tokens=12) == expected
    mixed = (path, pictures()[1], arrays[2])
    assert captioner()(iter(mixed), max_new_tokens=12) == expected


@pytest.mark.parametrize("images", [3, [None], torch.zeros(3, 8, 8), {"image": 1}])
def test_what_is_not_an_image_is_refused_by_name(images: Any) -> None:
    with pytest.raises(VlmHeadsError, match="in place of an image|is an array of shape|no file"):
        captioner()(images)


def test_the_limit_is_told_from_every_other_end() -> None:
    whole = captioner()(pictures())
    assert [caption.at_limit for caption in whole] == [False] * 3
    shortest = min(caption.tokens for caption in whole)
    assert shortest > 5, "these cuts must come before any caption ends"

    def ended(**generate: Any) -> tuple[list[bool], list[int]]:
        found = captioner()(pictures(), **generate)
        return [caption.at_limit for caption in found], [caption.tokens for caption in found]

    assert ended(max_new_tokens=4) == ([True] * 3, [4] * 3)
    assert ended(max_new_tokens=4, num_beams=2) == ([True] * 3, [4] * 3)
    assert ended(max_new_tokens=shortest)[0].count(True) >= 1
    assert ended(max_time=1e-9) == ([False] * 3, [1] * 3)
    assert ended(max_time=1e-9, max_new_tokens=1) == ([True] * 3, [1] * 3)
    assert ended(stopping_criteria=stopped_after(4)) == ([False] * 3, [4] * 3)


def test_a_row_that_was_stopped_next_to_one_at_the_limit_is_not_at_it() -> None:
    found = captioner()(pictures(), max_new_tokens=5, stopping_criteria=stopped_after(3, (1,)))
    assert [caption.at_limit for caption in found] == [True, False, True]
    assert [caption.tokens for caption in found] == [5, 3, 5]
    full = captioner()(pictures(), max_new_tokens=5)
    assert found[1].ids == full[1].ids[:3]
    assert found[0] == full[0]


def test_a_stop_string_ends_a_row_and_is_no_limit() -> None:
    """At every place at which the text may be cut, the limit included."""
    model, processor = tiny.build("llava"), folders.processor("llava", letters=True)
    captioner = Captioner(model, processor, ())

    def spelling(**generate: Any) -> list[Any]:
        torch.manual_seed(1)
        options = {"max_new_tokens": 12, "do_sample": True, "temperature": 2.0}
        options["eos_token_id"] = folders.EOS  # without one, generate() fills no row up
        options["suppress_tokens"] = [*processor.tokenizer.all_special_ids, tiny.IMAGE]
        return captioner(pictures()[:2], **options | generate)

    whole = spelling()
    assert [caption.at_limit for caption in whole] == [True, True]
    stop = whole[0].text[4:7]
    assert stop not in whole[1].text
    first, second = spelling(stop_strings=stop)
    assert first.text == whole[0].text[: whole[0].text.index(stop) + len(stop)]
    assert (first.ids, first.at_limit) == (whole[0].ids[: first.tokens], False)
    assert second == whole[1], "rows without it go on to their end"
    assert spelling(stop_strings=[stop, "never"]) == [first, second]
    assert spelling(stop_strings=stop, max_new_tokens=first.tokens)[0] == first
    assert spelling(stop_strings=stop, max_new_tokens=first.tokens - 1)[0].at_limit


def test_stop_strings_that_a_tokenizer_cannot_spell_are_refused() -> None:
    with pytest.raises(VlmHeadsError, match=r"stop_strings=\['dog'\] with a .* cannot spell them"):
        captioner()(pictures()[0], stop_strings="dog")


def test_end_tokens_of_the_call_count_and_text_ends_with_the_caption() -> None:
    stop = captioner()(pictures()[0])[0].ids[3]
    for ends in (stop, [stop, 2], torch.tensor([2, stop])):
        (found,) = captioner()(pictures()[0], eos_token_id=ends, max_new_tokens=8)
        assert (found.tokens, found.at_limit) == (3, False)
        assert found.text == captioner()(pictures()[0], max_new_tokens=3)[0].text


def test_a_generation_config_is_followed() -> None:
    config = deepcopy(captioner().model.generation_config)
    config.max_new_tokens, config.num_beams = 6, 2
    found = captioner()(pictures(), generation_config=config)
    assert [caption.tokens for caption in found] == [6] * 3
    assert found == captioner()(pictures(), num_beams=2, max_new_tokens=6)
    assert captioner()(pictures()[0], generation_config=config, max_new_tokens=2)[0].tokens == 2


def test_outputs_in_a_dictionary_and_several_sequences_are_captions() -> None:
    plain = captioner()(pictures(), max_new_tokens=8)
    options = {"return_dict_in_generate": True, "output_scores": True}
    assert captioner()(pictures(), max_new_tokens=8, **options) == plain
    beams = captioner()(pictures(), max_new_tokens=8, num_beams=2, num_return_sequences=2)
    assert len(beams) == 6
    assert beams[::2] == captioner()(pictures(), max_new_tokens=8, num_beams=2)


def test_generate_takes_what_prepare_made() -> None:
    inputs = captioner().prepare(pictures(), "Describe the image.")
    assert captioner().generate(inputs, max_new_tokens=9) == captioner()(
        pictures(), max_new_tokens=9
    )
    strong = captioner().generate(inputs, max_new_tokens=30, plugins="vhr:alpha=6")
    assert strong == captioner()(pictures(), max_new_tokens=30, plugins="vhr:alpha=6")
    assert strong != captioner().generate(inputs, max_new_tokens=30)


PROMPTS = ("Describe the image.", "Is there a dog in the image?", "Is there a kite in the image?")


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_lengths_are_padded_on_the_left(side: str) -> None:
    processor = deepcopy(captioner().processor)
    processor.tokenizer.padding_side = side
    other = Captioner(captioner().model, processor, ())
    inputs = other.prepare(pictures(), PROMPTS)
    assert not bool(inputs["attention_mask"].all()), "nothing was padded"
    assert bool(inputs["attention_mask"][:, -1].all())
    alone = [
        other.generate(other.prepare(picture, prompt), max_new_tokens=20)[0]
        for picture, prompt in zip(pictures(), PROMPTS, strict=True)
    ]
    assert other.generate(inputs, max_new_tokens=20) == alone
    assert processor.tokenizer.padding_side == side, "the user's processor is left alone"


def test_prompts_without_images_are_answered() -> None:
    inputs = captioner().prepare([None, None], PROMPTS[:2])
    assert "pixel_values" not in inputs
    assert len(captioner().generate(inputs, max_new_tokens=5)) == 2
    with pytest.raises(VlmHeadsError, match="2 prompts for 3 images"):
        captioner().prepare(pictures(), PROMPTS[:2])


def test_a_batch_without_a_padding_token_is_refused_and_one_image_is_not() -> None:
    processor = deepcopy(captioner().processor)
    processor.tokenizer.pad_token = None
    other = Captioner(captioner().model, processor, ())
    with pytest.raises(VlmHeadsError, match=r"without a padding token.*pad_token"):
        other.prepare(pictures(), PROMPTS)
    assert other(pictures(), max_new_tokens=4, batch_size=1) == captioner()(
        pictures(), max_new_tokens=4
    )


def test_a_prompt_with_an_image_token_in_it_is_refused() -> None:
    with pytest.raises(VlmHeadsError, match="a prompt that holds '<image>'") as refusal:
        captioner()(pictures(), prompt="What does <image> mean?")
    assert "\n" not in str(refusal.value)
    assert captioner()(pictures()[0], prompt="What does image mean?", max_new_tokens=2)


@pytest.mark.parametrize("plugins", [(), "vhr", "vcd", "pai"])
def test_weights_that_accelerate_keeps_elsewhere_give_the_same_captions(plugins: Any) -> None:
    model = deepcopy(captioner().model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.device == torch.device("meta")
    assert input_device(model) == torch.device("cpu")
    found = Captioner(model, captioner().processor, ())(
        pictures(), plugins=plugins, max_new_tokens=12
    )
    assert found == captioner()(pictures(), plugins=plugins, max_new_tokens=12)


def test_weights_that_accelerate_keeps_elsewhere_give_the_same_words() -> None:
    model = deepcopy(captioner().model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    found = Captioner(model, captioner().processor, ())(pictures(), words=True, max_new_tokens=12)
    assert found == captioner()(pictures(), words=True, max_new_tokens=12)
    assert found[0].words


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        model = type(captioner().model)(captioner().model.config)
    with pytest.raises(VlmHeadsError, match="without weights"):
        Captioner(model, captioner().processor, ())(pictures())


def test_what_does_not_go_with_plugins_is_refused_by_its_own_name() -> None:
    def refused(match: str, plugins: Any = "vhr", **generate: Any) -> None:
        with pytest.raises(VlmHeadsError, match=match) as refusal:
            captioner()(pictures()[0], plugins=plugins, **generate)
        assert "\n" not in str(refusal.value)

    refused("guidance_scale=1.5", guidance_scale=1.5)
    config = deepcopy(captioner().model.generation_config)
    config.guidance_scale = 2.0
    refused("guidance_scale=2.0", generation_config=config)
    assert captioner()(pictures()[0], plugins="vhr", guidance_scale=1, max_new_tokens=2)

    cache = t.DynamicCache()
    cache.update(torch.zeros(1, 1, 7, 2), torch.zeros(1, 1, 7, 2), 0)
    refused("past_key_values, a cache that already holds 7 tokens", (), past_key_values=cache)

    assistant = deepcopy(captioner().model)
    refused("assistant_model=LlavaForConditionalGeneration", assistant_model=assistant)
    with attach(assistant, "vhr"):
        refused("an assistant model .* with plugins attached", (), assistant_model=assistant)
    refused("max_length=200.*max_new_tokens", (), max_length=200)
    refused("max_new_tokens=0", (), max_new_tokens=0)


def test_a_plain_assistant_changes_nothing() -> None:
    assistant = deepcopy(captioner().model)
    picture = pictures()[0]
    plain = captioner()(picture, max_new_tokens=12)
    assert captioner()(picture, max_new_tokens=12, assistant_model=assistant) == plain


def test_fill_tokens_are_told_from_a_caption_that_has_them() -> None:
    """Without an end token generate() fills nothing up, so token 0 is a token like any other."""
    model = captioner().model
    tokenizer = folders.tokenizer(folders.RECIPES["llava"], letters=True)
    ending = Decoding.of(model, tokenizer, {"max_new_tokens": 4, "stop_strings": "x"})
    endless = Decoding.of(model, tokenizer, {"max_new_tokens": 4})
    assert ending.read([7, 8, 0, 0]) == ((7, 8), False)
    assert endless.read([7, 8, 0, 0]) == ((7, 8, 0, 0), True)
    assert endless.read([7, 2, 0, 0]) == ((7,), False)
    assert endless.read([7, 8]) == ((7, 8), False)
    assert endless.read([2, 0]) == ((), False)
