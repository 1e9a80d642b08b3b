"""What the picture gives words, against a slow decoder, and which words are left out for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import slow
import tiny
import torch

from vlmheads import VlmHeadsError
from vlmheads.grounding.visualness import Gain, Visualness, gains_of_words, token_gains
from vlmheads.grounding.words import Word

TARGETS = torch.tensor([[7, 8, 9], [11, 12, 13]])
LENGTHS = (5, 3)


def slow_logs(row: dict[str, torch.Tensor], tokens: list[int], images: bool) -> list[float]:
    decoder = slow.Slow(tiny.build("llava"))
    logits = decoder.prompt(row, images=images)
    found = []
    for token in tokens:
        found.append(float(logits.log_softmax(-1)[token]))
        logits = decoder.token(token)
    return found


def test_a_tokens_gain_is_its_log_probability_with_the_image_less_that_without() -> None:
    found = token_gains(tiny.build("llava"), tiny.inputs("llava", LENGTHS), TARGETS)
    for index in range(2):
        row, tokens = tiny.row("llava", LENGTHS, index), TARGETS[index].tolist()
        seeing, blind = (slow_logs(row, tokens, images) for images in (True, False))
        expected = [a - b for a, b in zip(seeing, blind, strict=True)]
        assert found[index].tolist() == pytest.approx(expected, abs=1e-5)


def test_against_another_image_it_is_less_that_with_the_other_image() -> None:
    other = tiny.inputs("llava", LENGTHS)
    other["pixel_values"] = other["pixel_values"].flip(0)
    found = token_gains(tiny.build("llava"), tiny.inputs("llava", LENGTHS), TARGETS, other)
    for index in range(2):
        row, tokens = tiny.row("llava", LENGTHS, index), TARGETS[index].tolist()
        swapped = row | {"pixel_values": tiny.row("llava", LENGTHS, 1 - index)["pixel_values"]}
        own, others = (slow_logs(one, tokens, True) for one in (row, swapped))
        expected = [a - b for a, b in zip(own, others, strict=True)]
        assert found[index].tolist() == pytest.approx(expected, abs=1e-5)


def test_words_sum_the_gains_of_the_tokens_that_they_touch() -> None:
    spans = [(0, 3), (3, 5), (5, 7), (7, 8)]  # "The", " d", "og", "."
    found = gains_of_words("The dog.", spans, [0.1, 1.0, 2.0, 9.0], lambda _: [(4, 7, "dog")])
    assert found == [("The", 0.1, False), ("dog", 3.0, True)]


def corpus() -> Visualness:
    said = [("The", 0.01 * (-1) ** index, False) for index in range(8)]
    said += [("red", 1.0 + 0.1 * index, False) for index in range(8)]
    said += [("dog", 0.0, True) for index in range(8)] + [("rare", 0.0, False)]
    return Visualness.measured(said, {"captions": 8})


def test_a_word_that_the_picture_gives_nothing_is_left_out_and_an_object_never() -> None:
    found = corpus()
    assert found.without_picture() == ("the",)
    assert found.gains["red"].mean == pytest.approx(1.35)
    assert found.gains["red"].error == pytest.approx(0.1 * (6**0.5) / (8**0.5))
    words = [
        Word(text, 0, 1, 0, 1, name, 0, 0, 0, 0, 0)
        for text, name in (("THE", None), ("red", None), ("dog", "dog"), ("rare", None))
    ]
    assert [word.text for word in found.kept(words)] == ["red", "dog", "rare"]
    assert len(Visualness().kept(words)) == 4


def test_it_is_saved_and_found_beside_a_model(tmp_path: Path) -> None:
    found, model = corpus(), tiny.build("llava")
    found.save(tmp_path / "visualness.json")
    assert Visualness.load(tmp_path / "visualness.json") == found
    assert Visualness.of(model) == Visualness()
    named = type("Model", (), {"name_or_path": str(tmp_path)})()
    assert Visualness.of(named).gains["the"] == Gain(8, 0.0, found.gains["the"].error)


@pytest.mark.parametrize("content", ["{}", "[]", '{"schema": 1, "gains": {"a": 3}}'])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(VlmHeadsError, match=r"a\.json"):
        Visualness.load(tmp_path / "a.json")
    with pytest.raises(VlmHeadsError, match="no file"):
        Visualness.load(tmp_path / "none.json")
