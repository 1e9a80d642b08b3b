from typing import Any

import pytest
from vlmheads_testbed.captions import caption_sample
from vlmheads_testbed.measure import messages
from vlmheads_testbed.questions import check_text, question_samples
from vlmheads_testbed.scenes import scene, stream


def test_every_word_of_the_training_texts_is_known(processor: Any) -> None:
    tokenizer = processor.tokenizer
    for index in range(150):
        one, random = scene("train", 9, index), stream("train", 9, index, 1)
        samples = [caption_sample(one, random), *question_samples(one, random)]
        texts = [f"{sample.prompt} {sample.answer}" for sample in samples]
        for text in (*texts, check_text(one, random)):
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids, text
            assert tokenizer.decode(ids) == text


def test_decoding_gives_natural_text_back(processor: Any) -> None:
    text = "A kitchen with two hot dogs, a cup and some broccoli. Is there an apple? Yes."
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_an_unknown_word_is_one_unknown_token(processor: Any) -> None:
    tokenizer = processor.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("Is there a quokka in the image?").input_ids)
    assert tokens == ["▁Is", "▁there", "▁a", "<unk>", "▁in", "▁the", "▁image", "?"]


@pytest.mark.parametrize("text", ["", "Ünïcödé 猫 \U0001f408", "a  b\tc\n", "x" * 500, "s es."])
def test_any_text_becomes_tokens_without_a_begin_token(processor: Any, text: str) -> None:
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.bos_token_id not in ids
    assert bool(ids) == bool(text)


def test_one_thing_is_one_token_and_its_plural_that_token_and_an_ending(processor: Any) -> None:
    tokenizer = processor.tokenizer

    def tokens(text: str) -> list[str]:
        return list(tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids))

    assert tokens("a hot dog, a dog") == ["▁a", "▁hot▁dog", ",", "▁a", "▁dog"]
    assert tokens("two hot dogs.") == ["▁two", "▁hot▁dog", "s", "."]
    assert tokens("three buses") == ["▁three", "▁bus", "es"]
    assert tokens("two knives") == ["▁two", "▁knives"]
    assert tokens("green grass") == ["▁green", "▁grass"]
    assert tokens("a dogs bowl bowls? cars, carrots") == [
        "▁a", "▁dog", "s", "▁bowl", "▁bowl", "s", "?", "▁car", "s", ",", "▁carrot", "s",
    ]  # fmt: skip


def test_the_chat_template_takes_a_user_turn_with_an_image(processor: Any) -> None:
    text = processor.apply_chat_template(
        messages("Describe the image."), add_generation_prompt=True
    )
    assert text == "<s>USER: <image>\nDescribe the image. ASSISTANT:"


def test_the_chat_template_takes_plain_text_and_several_turns(processor: Any) -> None:
    turns = [
        {"role": "user", "content": "Describe the image."},
        {"role": "assistant", "content": "A park."},
        {"role": "user", "content": [{"type": "text", "text": "Is there a dog?"}]},
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == (
        "<s>USER: Describe the image. ASSISTANT: A park.</s> USER: Is there a dog? ASSISTANT:"
    )


def test_a_prompt_with_a_picture_has_one_begin_token_and_64_image_tokens(processor: Any) -> None:
    text = processor.apply_chat_template(
        messages("Describe the image."), add_generation_prompt=True
    )
    ids = processor(images=scene("test", 0, 0).image, text=text, return_tensors="pt")["input_ids"]
    assert int((ids == processor.image_token_id).sum()) == 64
    assert int((ids == processor.tokenizer.bos_token_id).sum()) == 1
    assert int((ids == processor.tokenizer.unk_token_id).sum()) == 0


def test_the_template_gives_the_same_tokens_at_once_or_in_two_steps(processor: Any) -> None:
    turns: list[dict[str, Any]] = messages("Describe the image.")
    turns[0]["content"][0]["image"] = scene("test", 0, 0).image
    at_once = processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    apart = processor(images=scene("test", 0, 0).image, text=text, return_tensors="pt")
    assert at_once["input_ids"].tolist() == apart["input_ids"].tolist()


def test_padding_is_on_the_left(processor: Any) -> None:
    tokenizer = processor.tokenizer
    ids = tokenizer(["a cat", "a cat and a dog"], padding=True).input_ids
    assert ids[0][:3] == [tokenizer.pad_token_id] * 3
