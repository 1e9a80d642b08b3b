"""`vlmheads caption --flag` and `--drop`, and `vlmheads detect --measure words`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from vlmheads import Captioner, HeadMap
from vlmheads.cli import main
from vlmheads.commands import show
from vlmheads.grounding.scores import Scorer


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    options = ("--split", "counterfactual", "--num", "3", "--seed", "5")
    done = CliRunner().invoke(main, ["testbed", "make", str(folder), *options])
    assert done.exit_code == 0, done.output
    return folder / "images"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def records(*arguments: object) -> list[dict[str, Any]]:
    done = run("caption", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_flags_are_of_objects_below_the_threshold(scenes: Path) -> None:
    plain = records(scenes)
    found = records(scenes, "--flag", "--threshold", 0.6)
    for one, other in zip(plain, found, strict=True):
        assert one["caption"] == other["caption"]
        assert set(other) - set(one) == {"words", "threshold", "scorer"}
        for word in other["words"]:
            assert other["caption"][word["start"] : word["end"]] == word["text"]
            assert word["flagged"] == (word["object"] is not None and word["score"] < 0.6)
    assert {word["flagged"] for record in found for word in record["words"]} == {True, False}


def test_words_do_not_depend_on_the_batch_size(scenes: Path) -> None:
    one, other = (records(scenes, "--flag", "--batch-size", size) for size in (1, 3))
    for alone, together in zip(one, other, strict=True):
        for a, b in zip(alone["words"], together["words"], strict=True):
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)


def test_the_rewritten_caption_stands_next_to_the_whole_one(scenes: Path) -> None:
    for record in records(scenes, "--drop", "--threshold", 0.6):
        assert "words" not in record
        assert record["rewrite"]
        assert (record["rewrite"] == record["caption"]) == (not record["removed"])


def test_nothing_is_dropped_at_0_and_one_sentence_is_left_at_1(scenes: Path) -> None:
    for record in records(scenes, "--drop", "--threshold", 0):
        assert (record["rewrite"], record["removed"]) == (record["caption"], [])
    for record in records(scenes, "--drop", "--threshold", 1):
        assert record["rewrite"]
        assert record["removed"]


def test_the_terminal_shows_marks_and_what_was_left_out(scenes: Path) -> None:
    (record,) = records(sorted(scenes.iterdir())[0], "--flag", "--drop", "--threshold", 1)
    done = run("caption", sorted(scenes.iterdir())[0], "--flag", "--drop", "--threshold", 1)
    word = next(word for word in record["words"] if word["flagged"])
    assert f"[?{word['text']} {word['score']:.2f}]" in done.stdout
    assert f"rewritten: {record['rewrite']}" in done.stdout
    assert f"removed: {' | '.join(record['removed'])}" in done.stdout
    compared = run(
        "caption", sorted(scenes.iterdir())[0], "--flag", "--drop", "--threshold", 1, "--compare"
    )
    assert f"flagged: {show.marked(record)}" in compared.stdout
    assert f"rewritten: {record['rewrite']}" in compared.stdout


def test_a_scorer_from_a_file_scores_instead(scenes: Path, tmp_path: Path) -> None:
    Scorer({"attention": 0.0}, bias=0.0, threshold=0.7).save(tmp_path / "scorer.json")
    (record, *_) = records(scenes, "--flag", "--scorer", tmp_path / "scorer.json")
    assert {word["score"] for word in record["words"]} == {0.5}
    assert "not shown to tell hallucinated objects better" in record["caveat"]
    assert (record["threshold"], record["scorer"]) == (0.7, "plain")


def test_a_scorer_that_is_not_shown_to_beat_place_is_noted_in_one_line(
    scenes: Path, tmp_path: Path
) -> None:
    Scorer.plain().save(tmp_path / "plain.json")
    image = sorted(scenes.iterdir())[0]
    done = run("caption", image, "--plugin", "none", "--flag", "--scorer", tmp_path / "plain.json")
    (line,) = [line for line in done.stderr.splitlines() if "place" in line]
    assert line.startswith("note: the score is p/(p+p0), fitted on no captions")
    assert "place" not in run("caption", image, "--plugin", "none", "--flag").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threshold", 0.5), "--threshold alone"),
        (("--scorer", "x.json"), "--scorer alone"),
        (("--flag", "--threshold", 2), "threshold 2"),
        (("--flag", "--scorer", "nowhere.json"), "no file nowhere.json"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    scenes: Path, arguments: tuple[object, ...], message: str
) -> None:
    done = run("caption", scenes, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_words_of_a_folder_are_averaged(scenes: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "map.safetensors", tmp_path / "map.png"
    options = ("--measure", "words", "--batch-size", 2, "--out", out, "--plot", plot)
    done = run("detect", scenes, *options, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found["maps"]) == ["VHD at object words", "image attention at object words"]
    assert found["maps"]["VHD at object words"]["images"] == HeadMap.load(out).images == 3
    assert plot.stat().st_size > 1000
    captions = [record["caption"] for record in found["captions"]]
    captioner = Captioner.from_pretrained("embedded", ())
    plain = captioner(sorted(scenes.iterdir()), words=True)
    assert captions == [caption.text for caption in plain]
    means = []
    for caption in plain:
        scores = [word.score for word in caption.words if word.object]
        means.append(sum(scores) / len(scores))
    assert found["figures"]["score"]["mean"] == pytest.approx(sum(means) / 3, abs=1e-4)


def test_words_of_one_image_are_a_table(scenes: Path) -> None:
    image = sorted(scenes.iterdir())[0]
    done = run("detect", image, "--measure", "words", "--max-new-tokens", 12)
    assert done.exit_code == 0, done.output
    (caption,) = Captioner.from_pretrained("embedded", ())([image], max_new_tokens=12, words=True)
    assert f"caption: {caption.text}" in done.stdout
    for word in caption.words:
        if word.object:
            assert f"{word.divergence:.2f}" in done.stdout
            assert word.text in done.stdout


def test_captions_without_an_object_are_refused(scenes: Path) -> None:
    done = run("detect", scenes, "--measure", "words", "--max-new-tokens", 2)
    assert done.exit_code == 2
    assert "captions that name no object" in done.stderr


def test_several_images_show_the_least_supported_objects_first() -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    word = dict.fromkeys(("divergence", "attention", "log_probability"), 1.0)
    word |= {"log_probability_without": 2.0, "object": "dog", "text": "dog", "flagged": True}
    word |= {"first": 31, "repeat": True}
    shown = [
        {"image": f"{name}.png", "caption": "", "words": [word | {"score": score}]}
        for name, score in (("b", 0.5), ("a", 0.25), ("c", 0.75))
    ]
    show.objects(console, shown, 2)
    text = console.export_text()
    assert "31" in text
    assert "repeat" in text
    assert text.index("a.png") < text.index("b.png")
    assert "c.png" not in text
