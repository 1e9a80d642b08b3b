"""`vlmheads calibrate` from its choices to its command."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from vlmheads_eval.calibrate.examples import (
    Answer,
    Choice,
    Weights,
    choices,
    object_tokens,
    read_answer,
    split_images,
)
from vlmheads_eval.calibrate.report import shuffled_gains
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.commands.calibrate import calibrate
from vlmheads_testbed.coco import write_dataset

import vlmheads
from vlmheads import HeadMap
from vlmheads.model.geometry import Geometry

END = 9
# Tokens of a tokenizer of whole words.
DOG, CAT, BEAR, A, DOT, SEEN = range(6)
OBJECTS = {DOG: frozenset({"dog"}), CAT: frozenset({"cat"}), BEAR: frozenset({"bear"})}


def answer(truth: set[str]) -> Answer:
    """'dog. dog' as tokens, of an image with these objects."""
    return Answer(
        [DOG, DOT, DOG],
        [(0, 3), (3, 4), (4, 8)],
        "dog. dog",
        {0: "dog", 5: "dog"},
        frozenset(truth),
    )


def kinds(truth: set[str]) -> list[Choice]:
    return list(choices(answer(truth), OBJECTS, END, Weights(1.0, 0.5, 0.3, 0.1, 0.2)))


def test_an_object_that_is_there_is_better_than_those_that_are_not() -> None:
    assert kinds({"dog"})[0] == Choice(0, frozenset({DOG}), frozenset({CAT, BEAR}), 1.0)


def test_words_that_name_nothing_are_to_stay() -> None:
    assert kinds({"dog"})[1] == Choice(1, frozenset({DOT}), None, 0.2)


def test_an_object_that_was_named_before_is_worse() -> None:
    first, _, going_on = kinds({"dog", "cat"})
    assert first == Choice(0, frozenset({DOG, CAT}), frozenset({BEAR}), 1.0)
    assert going_on == Choice(2, frozenset({END}), None, 0.3, swapped=True)
    text = "dog and dog"
    again = Answer([DOG, A, DOG], [(0, 3), (3, 7), (7, 11)], text, {0: "dog", 8: "dog"},
                   frozenset({"dog", "cat"}))  # fmt: skip
    found = list(choices(again, OBJECTS, END, Weights(again=0.3)))
    assert found[2:4] == [
        Choice(2, frozenset({CAT}), frozenset({BEAR}), 1.0),
        Choice(2, frozenset({CAT}), frozenset({DOG}), 0.3),
    ]


def test_a_caption_that_has_named_all_should_end() -> None:
    assert kinds({"dog"})[2] == Choice(2, frozenset({END}), None, 0.1)


@pytest.fixture(scope="module")
def captioner() -> vlmheads.Captioner:
    return vlmheads.Captioner.from_pretrained("embedded", ())


def test_object_words_are_found_among_the_tokens(captioner: vlmheads.Captioner) -> None:
    tokenizer = captioner.processor.tokenizer
    objects = object_tokens(tokenizer, get_variant("pattern").vocabulary)
    for word, category in (("dog", "dog"), ("buses", "bus"), ("puppies", "dog")):
        first, *_ = tokenizer(word, add_special_tokens=False).input_ids  # a plural is one more
        assert category in objects[first]
    (article,) = tokenizer("a", add_special_tokens=False).input_ids
    assert article not in objects


def test_an_answer_knows_what_it_names_where(captioner: vlmheads.Captioner) -> None:
    text = "There is a beach with a dog. There are two birds."
    found = read_answer(
        captioner.processor.tokenizer, text, frozenset({"dog"}), get_variant("pattern")
    )
    assert {text[at:].split()[0]: name for at, name in found.named.items()} == {
        "dog.": "dog",
        "birds.": "bird",
    }
    assert len(found.tokens) == len(found.spans)


def test_what_is_held_out_is_not_learned_from() -> None:
    keys = [str(n) for n in range(10)]
    learned, held_out = split_images(keys, 0.2, seed=1)
    assert len(held_out) == 2
    assert sorted(learned + held_out) == sorted(keys)
    assert split_images(keys, 0.2, seed=1) == (learned, held_out)


def test_shuffled_gains_are_the_same_gains_at_other_heads() -> None:
    gains = HeadMap(torch.rand(1, 4, 4), Geometry("llava", 4, 4), "gain")
    other = shuffled_gains(gains, seed=0)
    assert torch.equal(other.values.flatten().sort().values, gains.values.flatten().sort().values)
    assert not torch.equal(other.values, gains.values)


SMALL = ["--num", "8", "--batch-size", "5", "--rounds", "1", "--fewest", "1"]
SMALL += ["--max-new-tokens", "16", "--data", "testbed:counterfactual"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(calibrate, list(arguments), catch_exceptions=False)
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with gains.safetensors and test.json, as the command wrote them."""
    folder = tmp_path_factory.mktemp("calibrate")
    test = folder / "test"
    write_dataset(test, "test", 3)
    arguments = ["--test", str(test), "--draws", "2", "--json", str(folder / "test.json")]
    code, text = run(*SMALL, "--out", str(folder / "gains.safetensors"), *arguments)
    assert code == 0, text
    return folder


def test_the_command_writes_gains_that_tell_where_they_come_from(learned: Path) -> None:
    out = learned / "gains.safetensors"
    about = HeadMap.load(out).provenance
    assert (about["model"], about["data"]) == ("embedded", ["testbed:counterfactual"])
    assert (about["images"], about["held-out images"], about["rounds"]) == (8, 2, 1)
    plugin = vlmheads.get_plugin("gains").from_dict({"head_map": str(out)})
    assert plugin.to_dict()["strength"] == 1.0


def test_the_command_tests_the_gains_against_its_controls(learned: Path) -> None:
    (result,) = json.loads((learned / "test.json").read_text()).values()
    assert set(result["figures"]) == {"plain", "vhr", "calibrated", "shuffled gains"}
    assert set(result["calibrated less"]) == {"plain", "vhr", "shuffled gains"}
    assert "object_f1" in result["calibrated less truncated captions"]


def test_the_command_gives_the_same_gains_again(learned: Path, tmp_path: Path) -> None:
    again = tmp_path / "gains.safetensors"
    assert run(*SMALL, "--test", "none", "--out", str(again))[0] == 0
    one, two = (HeadMap.load(file).values for file in (learned / again.name, again))
    assert torch.equal(one, two)


def test_too_few_hallucinations_are_refused_by_name(tmp_path: Path) -> None:
    out = str(tmp_path / "gains.safetensors")
    code, text = run(*SMALL, "--fewest", "10000", "--test", "none", "--out", out)
    assert code == 2
    assert "hallucinated mentions in" in text
    assert "at least 10000" in text


def test_a_folder_without_images_is_refused_by_name(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_dataset(data, "train", 3)
    for file in (data / "images").iterdir():
        file.unlink()
    code, text = run("--data", str(data), "--out", str(tmp_path / "gains.safetensors"))
    assert (code, "without its images" in text) == (2, True)


def test_a_folder_without_annotations_is_refused_by_name(tmp_path: Path) -> None:
    code, text = run("--data", str(tmp_path), "--out", str(tmp_path / "gains.safetensors"))
    assert (code, "without instances*.json" in text) == (2, True)


def test_images_that_were_learned_from_are_no_test(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_dataset(data, "train", 3)
    out = str(tmp_path / "gains.safetensors")
    code, text = run("--data", str(data), "--test", str(data), "--out", out)
    assert (code, "3 test images were learned from" in text) == (2, True)


def test_a_word_that_may_name_something_new_is_not_worse_for_what_it_named_before() -> None:
    hot = 6  # Begins words of two categories, as "hot" does of "hot dog" and of "hot tub".
    objects = OBJECTS | {hot: frozenset({"dog", "cat"})}
    said = Answer([DOG, DOG], [(0, 3), (3, 7)], "dog dog", {0: "dog", 4: "dog"},
                  frozenset({"dog", "cat"}))  # fmt: skip
    *_, last = (choice for choice in choices(said, objects, END, Weights()) if choice.place == 1)
    assert (last.better, last.worse) == (frozenset({CAT, hot}), frozenset({DOG}))
