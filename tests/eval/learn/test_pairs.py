"""Pairs of a truthful and a hallucinated caption, and what `vlmheads learn` makes of them."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.commands.learn import learn
from vlmheads_eval.data import Sample
from vlmheads_eval.learn.cached import blotted, nameless, read_boxes
from vlmheads_eval.learn.offsets import told
from vlmheads_eval.learn.pairs import Pair, likeliest, make_pairs
from vlmheads_eval.learn.risk import best_layer, questions
from vlmheads_testbed.coco import write_dataset

import vlmheads
from vlmheads.errors import VlmHeadsError
from vlmheads.learned import Learned

TRUTH = {
    "1": frozenset({"dog", "bench"}),
    "2": frozenset({"dog", "bird", "bench"}),
    "3": frozenset({"bird", "boat"}),
    "4": frozenset({"apple", "dog"}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "scenes"
    write_dataset(folder, "counterfactual", 8)
    return folder


def run(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(learn, [str(one) for one in arguments], catch_exceptions=False)
    return found.exit_code, found.output


def pairs_of(text: str, key: str = "1") -> list[tuple[str, str, bool]]:
    sample = Sample(key, Path("a.png"), "Describe the image.")
    found = make_pairs([(sample, text)], TRUTH, get_variant("pattern"))
    return [(one.truthful, one.hallucinated, one.inserted) for one in found]


def test_a_hallucinated_caption_loses_the_clauses_that_are_not_true() -> None:
    text = "There is a dog and a boat. A bird sits on a bench. It is sunny."
    assert pairs_of(text) == [("There is a dog. It is sunny.", text, False)]


def test_a_truthful_caption_gets_the_likeliest_absent_object() -> None:
    text = "There is a dog on a bench."
    assert pairs_of(text) == [(text, f"{text} There is also a bird.", True)]
    assert pairs_of("A boat. ", "3") == [("A boat. ", "A boat. There is also a bench.", True)]
    apple = {"1": frozenset({"dog"}), "4": TRUTH["4"]}
    (pair,) = make_pairs(
        [(Sample("1", Path("a.png"), "?"), "A dog.")], apple, get_variant("pattern")
    )
    assert pair.hallucinated == "A dog. There is also an apple."


def test_one_object_of_the_truthful_caption_is_swapped_for_an_absent_one() -> None:
    sample, variant = Sample("1", Path("a.png"), "Describe the image."), get_variant("pattern")
    text = "There is a dog and a boat. A bird sits on a bench."
    (pair,) = make_pairs([(sample, text)], TRUTH, variant)
    assert pair.truthful == "There is a dog."
    absent = {f"There is a {name}." for name in ("apple", "bird", "boat")}
    assert pair.swapped in absent
    assert [pair] == make_pairs([(sample, text)], TRUTH, variant)
    (only,) = make_pairs([(sample, "A dog.")], {"1": frozenset({"dog"}), "2": frozenset({"cat"})},
                         variant)  # fmt: skip
    assert (only.truthful, only.swapped) == ("A dog.", "A cat.")


@pytest.mark.parametrize("text", ["It is sunny.", "A boat floats by.", ""])
def test_what_names_nothing_or_nothing_true_gives_no_pair(text: str) -> None:
    assert pairs_of(text) == []


def test_the_likeliest_object_is_most_often_beside_those_that_are_there() -> None:
    assert likeliest(TRUTH["1"], TRUTH) == "bird"  # beside two of them in image 2
    assert likeliest(TRUTH["3"], TRUTH) == "bench"  # before dog, by name
    every = frozenset[str]().union(*TRUTH.values())
    assert likeliest(every, TRUTH) is None


NEEDS = {"vti": "directions", "nullu": "basis", "revis": "learned", "pti": "directions"}
FORMS = ("iti", "iti-probe", "lofit", "after")


@pytest.mark.parametrize("method", list(NEEDS))
def test_the_command_learns_from_pairs_what_acts(method: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "learned.safetensors"
    given = ("--model", "embedded", "--data", data, "--out", out, "--fewest", 2)
    code, text = run(method, *given, "--max-new-tokens", 48)
    assert code == 0, text
    found = Learned.load(out)
    made = found.provenance["pairs"]
    assert found.method == method
    assert sum(made.values()) >= 2
    assert f"an object inserted in {made['inserted']}" in text
    plugin = vlmheads.get_plugin(method).from_dict({NEEDS[method]: str(out)})
    captioner = vlmheads.Captioner.from_pretrained("embedded")
    image = next((data / "images").iterdir())
    (caption,) = captioner([image], plugins=[plugin], max_new_tokens=8)
    assert caption.text


def test_too_few_pairs_are_refused_with_the_number_needed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "basis.safetensors"
    given = ("--model", "embedded", "--data", data, "--out", out, "--max-new-tokens", 16)
    code, text = run("nullu", *given)
    assert code == 2
    assert "pairs of captions from 8 captions; expected at least 100 to learn from" in text
    assert not out.exists()
    code, text = run("nullu", *given, "--captions", tmp_path, "--batch-size", 4)
    assert (code, "--max-new-tokens, --batch-size have no effect on nullu" in text) == (2, True)


def test_revis_steers_at_the_last_layer_where_wrong_answers_stand_out() -> None:
    wrong = torch.tensor([True, False, False])
    risks = torch.tensor([[9.0, 0.4, 0.1, 0.25], [0, 0.1, 0.2, 0.3], [0, 0.1, 0.2, 0.3]])
    assert best_layer(risks, wrong) == 1
    # Layer 0 is below the lowest, a share of 10 in 32; nowhere do they stand out above it.
    assert best_layer(risks - torch.tensor([[0, 0.6, 0, 0], [0] * 4, [0] * 4]), wrong) == 3


def test_revis_asks_for_an_object_that_is_there_and_one_that_is_not() -> None:
    pair = Pair(Sample("1", Path("a.png"), "Describe the image."), "", "", inserted=True)
    found = questions([pair], TRUTH)
    assert [(one.sample.prompt, one.present) for one in found] == [
        ("Is there a bench in the image?", True),
        ("Is there a bird in the image?", False),
    ]


def test_objects_are_blotted_out_or_left_alone() -> None:
    image = Image.new("RGB", (6, 4), (0, 0, 0))
    image.paste((255, 255, 255), (1, 1, 3, 3))
    boxes = [(1.0, 1.0, 2.0, 2.0)]
    mean = (42, 42, 42)  # 4 of 24 pixels are white, 42.5 rounded to even
    gone, alone = (blotted(image, boxes, inside) for inside in (True, False))
    assert [one.getpixel((1, 1)) for one in (gone, alone)] == [mean, (255, 255, 255)]
    assert [one.getpixel((4, 0)) for one in (gone, alone)] == [(0, 0, 0), mean]


def test_a_caption_loses_the_names_of_its_objects() -> None:
    # A parser, where one is installed, takes all of "park bench" for the name.
    found = nameless("A dog sits on a park bench. It is sunny.")
    assert found in ("A sits on a park . It is sunny.", "A sits on a . It is sunny.")
    assert nameless("It is sunny.") == "It is sunny."


@pytest.mark.parametrize(
    ("box", "message"),
    [([1, 2, 3], r"annotations\[0\]\.bbox of 3 numbers"), ("1", r"annotations\[0\]\.bbox is text")],
)
def test_a_box_that_is_none_is_named(tmp_path: Path, box: object, message: str) -> None:
    file = tmp_path / "instances.json"
    annotations = [{"image_id": 1, "bbox": box}, {"image_id": 1, "bbox": [1, 2, 3, 4.5]}]
    file.write_text(json.dumps({"annotations": annotations[1:]}))
    assert read_boxes([file]) == {"1": [(1, 2, 3, 4.5)]}
    file.write_text(json.dumps({"annotations": annotations}))
    with pytest.raises(VlmHeadsError, match=message):
        read_boxes([file])


@pytest.mark.parametrize("form", FORMS)
def test_offsets_are_learned_in_each_of_their_forms(form: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "learned.safetensors"
    given = ("--model", "embedded", "--data", data, "--out", out, "--fewest", 2)
    code, text = run("offsets", *given, "--max-new-tokens", 32, "--form", form)
    assert code == 0, text
    found = Learned.load(out)
    assert found.provenance["form"] == form
    heads = found.geometry.layers * found.geometry.heads
    counts = {"iti": 48 / 1024, "iti-probe": 48 / 1024, "lofit": 0.03, "after": 64 / 1024}
    assert found.values["count"].tolist() == [round(counts[form] * heads)]
    assert bool(found.values["everywhere"][0]) == (form == "lofit")
    plugin = vlmheads.get_plugin("offsets").from_dict({"learned": str(out)})
    captioner = vlmheads.Captioner.from_pretrained("embedded")
    image = next((data / "images").iterdir())
    (caption,) = captioner([image], plugins=[plugin], max_new_tokens=8)
    assert caption.text


def test_a_form_is_refused_where_there_is_none(data: Path, tmp_path: Path) -> None:
    given = ("--model", "embedded", "--data", data, "--out", tmp_path / "basis.safetensors")
    code, text = run("nullu", *given, "--form", "iti")
    assert (code, "--form has no effect on nullu; expected it with offsets" in text) == (2, True)


def test_facts_are_told_in_words() -> None:
    assert told(frozenset()) == "There is nothing in the image."
    assert told(frozenset({"dog"})) == "There is a dog in the image."
    words = told(frozenset({"dog", "apple", "bench"}))
    assert words == "There is an apple, a bench and a dog in the image."
