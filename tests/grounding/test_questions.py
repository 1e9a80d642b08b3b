"""P(yes) and LPFV: published readings of answers, and one question against many."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlmheads import Captioner, VlmHeadsError
from vlmheads.grounding.lpfv import PROMPT, lpfv, name_tokens
from vlmheads.grounding.questions import p_yes, question_about, read_answer, read_served_answer

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "p_yes.json").read_text("utf-8")
)
ENDING = "Please answer this question with one word."


@cache
def embedded() -> Captioner:
    return Captioner.from_pretrained("embedded", ())


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    size = embedded().model.config.vision_config.image_size
    return [Image.fromarray(random.integers(0, 255, (size, size, 3), np.uint8)) for _ in range(2)]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_served_answers_are_read_by_the_rule(case: dict[str, Any]) -> None:
    found = read_served_answer(case["entry"])
    for name, value in case["expected"].items():
        assert getattr(found, name) == pytest.approx(value), name


def test_entries_without_log_probabilities_are_refused() -> None:
    for entry in ({}, {"token": "Yes"}, {"token": "Yes", "logprob": -1, "top_logprobs": [{}]}):
        with pytest.raises(VlmHeadsError, match="cannot be read"):
            read_served_answer(entry)
    assert read_answer({"Yes": 0.0}).p_yes == 1


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("dog", "Is there a dog"),
        ("orange", "Is there an orange"),
        ("hour", "Is there an hour"),
        ("unicorn", "Is there a unicorn"),
        ("umbrella", "Is there an umbrella"),
        ("uninhabited house", "Is there an uninhabited house"),
        ("TV", "Is there a TV"),
        ("LED lamp", "Is there an LED lamp"),
        ("UFO", "Is there a UFO"),
        ("one-way sign", "Is there a one-way sign"),
        ("scissors", "Are there any scissors"),
        ("skis", "Are there any skis"),
        ("bus", "Is there a bus"),
        ("wine glass", "Is there a wine glass"),
        ("tennis racket", "Is there a tennis racket"),
    ],
)
def test_questions_take_the_article_of_the_sound_and_the_number(name: str, beginning: str) -> None:
    assert question_about(name) == f"{beginning} in the image? Answer yes or no."


def test_p_yes_is_the_share_of_yes_in_the_first_token_of_generation() -> None:
    captioner, images = embedded(), pictures()
    names = [["dog", "cat", "dog"], ["person"]]
    found = p_yes(captioner.model, captioner.processor, images, names, ending=ENDING, batch_size=2)
    assert [list(one) for one in found] == [["dog", "cat"], ["person"]]
    vocabulary = captioner.processor.tokenizer.get_vocab()
    for image, one in zip(images, found, strict=True):
        for name, value in one.items():
            inputs = captioner.prepare([image], question_about(name, ENDING))
            output = captioner.model.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
            chance = output.logits[0][0].softmax(-1)
            said = {
                answer: sum(float(chance[at]) for piece, at in vocabulary.items()
                            if piece.strip("\u2581").lower() == answer)
                for answer in ("yes", "no")
            }  # fmt: skip
            assert value == pytest.approx(said["yes"] / sum(said.values()), abs=1e-4)


def test_lpfv_is_the_probability_of_the_capitalised_name() -> None:
    captioner, images = embedded(), pictures()
    names = [["three", "there"], ["two", "wombat"]]
    found = lpfv(captioner.model, captioner.processor, images, names, batch_size=2)
    assert math.isnan(found[1]["wombat"])  # no name that the tokenizer knows
    for image, one in zip(images, found, strict=True):
        for name, value in one.items():
            if name == "wombat":
                continue
            (token,) = name_tokens(captioner.processor, name)
            said = captioner.processor.tokenizer.convert_ids_to_tokens(token)
            assert said == f"\u2581{name.capitalize()}"
            inputs = captioner.prepare([image], PROMPT)
            with torch.no_grad():
                logits = captioner.model(**inputs).logits[0, -1]
            assert value == pytest.approx(float(logits.softmax(-1)[token]), rel=1e-3)


def test_longer_names_are_products_and_geometric_means() -> None:
    captioner, images = embedded(), pictures()[:1]
    names = [["three", "three dogs there"]]
    product, mean = (
        lpfv(captioner.model, captioner.processor, images, names, mean=flag)[0]
        for flag in (False, True)
    )
    length = len(name_tokens(captioner.processor, "three dogs there"))
    assert length > 1
    assert product["three"] == pytest.approx(mean["three"])
    expected = mean["three dogs there"] ** length
    assert product["three dogs there"] == pytest.approx(expected, rel=1e-3)
