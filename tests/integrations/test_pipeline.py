"""A transformers pipeline over an attached model: batches, texts, copies.

tests/commands/test_cli.py has one chat, before, during and after.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import transformers
from PIL import Image

from vlmheads import Captioner, attach

PLUGIN = "vhr:alpha=4"
OPTIONS = {"max_new_tokens": 16, "do_sample": False}


def chat(image: Image.Image) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Describe the image."}]
    return [{"role": "user", "content": content}]


def said(pipe: Any, *args: Any, **kwargs: Any) -> list[str]:
    found = pipe(*args, generate_kwargs=OPTIONS, return_full_text=False, **kwargs)
    answers = [item[0] if isinstance(item, list) else item for item in found]
    return [answer["generated_text"].strip() for answer in answers]


@pytest.fixture
def pipe(captioner: Captioner) -> Any:
    """Build a pipeline over a model of its own, which has not run yet."""
    model = Captioner.from_pretrained("embedded", ()).model
    return transformers.pipeline("image-text-to-text", model=model, processor=captioner.processor)


def test_batches_of_chats_and_of_texts_say_what_the_captioner_says(
    pipe: Any, captioner: Captioner, pictures: list[Image.Image]
) -> None:
    expected = [item.text for item in captioner(pictures, plugins=PLUGIN, max_new_tokens=16)]
    chats = [chat(image) for image in pictures]
    prompt = captioner.processor.apply_chat_template(chats[0], add_generation_prompt=True)
    plain = said(pipe, text=chats, batch_size=3)
    with attach(pipe.model, PLUGIN):
        assert said(pipe, text=chats) == expected
        assert said(pipe, text=chats, batch_size=3) == expected
        assert said(pipe, images=pictures, text=[prompt] * 3, batch_size=2) == expected
    assert said(pipe, text=chats, batch_size=3) == plain != expected


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_a_copied_pipeline_keeps_its_plugins(
    copied: Any, pipe: Any, captioner: Captioner, pictures: list[Image.Image]
) -> None:
    with attach(pipe.model, PLUGIN):
        twin = copied(pipe)
    asked = chat(pictures[0])
    (expected,) = captioner(pictures[:1], plugins=PLUGIN, max_new_tokens=16)
    (plain,) = captioner(pictures[:1], max_new_tokens=16)
    assert said(twin, text=[asked]) == [expected.text]
    assert said(pipe, text=[asked]) == [plain.text] != [expected.text]
