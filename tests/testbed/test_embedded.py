from pathlib import Path
from typing import Any

import pytest
import torch
import vlmheads_testbed
from vlmheads_testbed import embedded_model
from vlmheads_testbed.measure import answers, messages, named
from vlmheads_testbed.processing import CHAT_TEMPLATE, build_tokenizer
from vlmheads_testbed.scenes import scene

from vlmheads.errors import VlmHeadsError

Loaded = tuple[Any, Any]


def test_the_weights_take_at_most_twelve_megabytes() -> None:
    assert (embedded_model() / "model.safetensors").stat().st_size <= 12_000_000


def test_the_packaged_model_is_a_llava_in_single_precision(embedded: Loaded) -> None:
    model, processor = embedded
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert type(processor).__name__ == "LlavaProcessor"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_generate_needs_no_options(embedded: Loaded) -> None:
    model, _ = embedded
    config = model.generation_config
    assert None not in (config.pad_token_id, config.bos_token_id, config.eos_token_id)
    assert config.do_sample is False
    assert config.max_new_tokens >= 64


def test_the_tokenizer_and_the_template_are_those_of_this_version(embedded: Loaded) -> None:
    _, processor = embedded
    assert processor.tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert processor.chat_template == CHAT_TEMPLATE


def test_captions_follow_the_picture_and_not_only_the_prior(embedded: Loaded) -> None:
    scenes = [scene("test", 1, index) for index in range(16)]
    captions = answers(*embedded, scenes, ["Describe the image."] * 16)

    def hits(said: list[str]) -> int:
        return sum(
            len(one.names & set(named(text))) for one, text in zip(scenes, said, strict=True)
        )

    # Captions of other pictures are what a model says that looks at none.
    assert hits(captions) > 3 * hits(captions[1:] + captions[:1])
    assert all(text.endswith(".") and "<" not in text for text in captions)


def test_a_question_is_answered_by_yes_or_no(embedded: Loaded) -> None:
    prompts = ["Is there a person in the image?", "Is there a quokka in the image?"]
    scenes = [scene("test", 1, index) for index in range(2)]
    assert set(answers(*embedded, scenes, prompts)) <= {"Yes.", "No."}


def test_a_padded_batch_gives_each_picture_what_it_gets_alone(embedded: Loaded) -> None:
    scenes = [scene("test", 1, index) for index in range(4)]
    prompts = ["Describe the image.", "Is there a dog in the image?",
               "Please describe this image in detail.", "Write a short caption."]  # fmt: skip
    alone = [
        answers(*embedded, [one], [text])[0] for one, text in zip(scenes, prompts, strict=True)
    ]
    assert answers(*embedded, scenes, prompts) == alone


def test_padding_does_not_change_the_logits(embedded: Loaded) -> None:
    model, processor = embedded
    text = processor.apply_chat_template(
        messages("Describe the image."), add_generation_prompt=True
    )
    longer = text.replace("image.", "image in detail.")
    image = scene("test", 1, 0).image
    both = processor(images=[image] * 2, text=[text, longer], padding=True, return_tensors="pt")
    single = processor(images=image, text=text, return_tensors="pt")
    positions = both["attention_mask"].cumsum(1).sub(1).clamp(min=0)
    with torch.no_grad():
        padded = model(**both, position_ids=positions).logits[0, -1]
        assert torch.allclose(padded, model(**single).logits[0, -1], atol=1e-4)


def test_missing_weights_are_said_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlmheads_testbed, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(VlmHeadsError, match=r"no weights in .*vlmheads_testbed\.train"):
        embedded_model()
