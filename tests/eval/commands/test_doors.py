"""What the evaluator's commands refuse, and what they print and write of hostile names."""

import csv
import io
import json
import os

import pytest
from click.testing import CliRunner
from PIL import Image
from vlmheads_eval.benchmarks.amber import load_amber
from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.commands.evaluate import MOST_DRAWS, evaluate
from vlmheads_eval.report.figures import pictures_of
from vlmheads_eval.report.tables import comma_separated, latex, markdown

from vlmheads.errors import VlmHeadsError

NAMES = ["=cmd|' /C calc'!A0", "[red]x[/red]", "\x1b[31mred", r"\input{/etc}", "@SUM(1)", "$\\x$$"]


@pytest.fixture
def run():
    def invoke(*arguments):
        return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def files(tmp_path):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"1": ["dog"], "2": ["dog", "cat"]}))
    captions = tmp_path / "captions.jsonl"
    lines = [{"image_id": n, "caption": "A dog on a [bold]bench[/bold]."} for n in (1, 2)]
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return truth, captions


def coco(folder, annotations, **more):
    content = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    folder.mkdir(exist_ok=True)
    (folder / "instances.json").write_text(json.dumps(content | more))
    return folder / "instances.json"


def test_objects_with_one_annotation_id_all_count(tmp_path):
    annotations = [{"id": 7, "image_id": 1, "category_id": n} for n in (1, 2)]
    truth = load_ground_truth([coco(tmp_path, annotations)], get_variant())
    assert truth.objects == {"1": {"dog", "cat"}}


@pytest.mark.parametrize(
    ("annotations", "more", "message"),
    [
        ([{"image_id": 1}], {}, r"annotations\[0\] has the category None"),
        ([{"image_id": 1, "category_id": 9}], {}, r"annotations\[0\] has the category 9"),
        ([{"image_id": None, "category_id": 1}], {}, r"annotations\[0\].image_id is null"),
        ([], {"categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]}, "category 1 is"),
    ],
)
def test_annotations_that_do_not_fit_are_named(tmp_path, annotations, more, message):
    with pytest.raises(VlmHeadsError, match=message):
        load_ground_truth([coco(tmp_path, annotations, **more)], get_variant())


def test_pictures_come_from_the_image_folder_only(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    coco(tmp_path / "data", [])
    (tmp_path / "data" / "images").mkdir()
    picture = tmp_path / "data" / "images" / "1.png"
    picture.symlink_to(tmp_path / "private.png")
    assert pictures_of([tmp_path / "data"])(1) is None
    picture.unlink()
    picture.write_bytes((tmp_path / "private.png").read_bytes())
    assert pictures_of([tmp_path / "data"])(1).startswith("data:image/jpeg")


@pytest.mark.parametrize("kind", ["predictions", "truth", "link"])
def test_a_result_never_overwrites_what_it_was_made_of(run, files, tmp_path, kind):
    truth, captions = files
    (tmp_path / "link").symlink_to(captions)
    target = {"predictions": captions, "truth": truth, "link": tmp_path / "link"}[kind]
    before = target.read_bytes()
    for command in (
        ["score", "chair", captions],
        ["compare", captions, captions, "--names", "a,b"],
    ):
        done = run(*command, "-g", truth, "--json", target)
        assert done.exit_code == 2
        assert "would overwrite what is read" in done.stderr
        assert done.stdout == ""
    assert target.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_figures_are_shown_where_they_cannot_be_written(run, files):
    truth, captions = files
    done = run("score", "chair", captions, "-g", truth, "--json", "/dev/full")
    assert done.exit_code == 2
    assert "CHAIR_S" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: /dev/full cannot be written (No space left on device)")
    assert "the result is kept in" in line


def test_a_folder_that_is_not_there_is_found_out_first(run, files, tmp_path):
    truth, captions = files
    done = run("score", "chair", captions, "-g", truth, "--json", tmp_path / "none" / "x.json")
    assert (done.exit_code, done.stdout) == (2, "")
    done = run("report", captions, captions, "-g", truth, "--names", "a,b", "--out", "/proc/x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "folder /proc/x cannot be made" in done.stderr


@pytest.mark.parametrize("draws", [99, MOST_DRAWS + 1, 10**12])
def test_draws_have_bounds(run, files, draws):
    truth, captions = files
    done = run("compare", captions, captions, "-g", truth, "--draws", draws)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Invalid value for '--draws'")


def test_names_of_runs_are_printed_and_written_as_they_are(run, files, tmp_path):
    truth, captions = files
    options = (*[captions] * len(NAMES), "-g", truth, "--draws", 100, "--names", ",".join(NAMES))
    done = run("report", *options, "--out", tmp_path / "report")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "=cmd|" in done.output
    texts = {path.suffix: path.read_text() for path in (tmp_path / "report").iterdir()}
    assert not any("\x1b" in text for text in texts.values())
    assert r"\input{" not in texts[".tex"]


def test_cells_are_neutralised_for_each_format():
    rows = [["run", "diff."], *([name, "-1.2 [-2.4, +0.1]"] for name in NAMES), ["a", "-"]]
    table = list(csv.reader(io.StringIO(comma_separated(rows))))
    names = [row[0] for row in table[1:]]
    assert names == [
        f"'{NAMES[0]}",
        NAMES[1],
        r"\x1b[31mred",
        NAMES[3],
        f"'{NAMES[4]}",
        NAMES[5],
        "a",
    ]
    assert {row[1] for row in table[1:-1]} == {"-1.2 [-2.4, +0.1]"}
    assert table[-1][1] == "-"
    assert r"\textbackslash{}input\{/etc\}" in latex(rows)
    assert latex([["~^<>\\", "b", "c"]]).count("\\text") == 5
    text = markdown([["a|b", "<img src=x>"], ["[x](javascript:y)", "two\nlines"]])
    assert text.splitlines()[0] == "| a\\|b | &lt;img src=x> |"
    assert "](" not in text
    assert len(text.splitlines()) == 3


def test_ambers_items_are_held_to_their_form(tmp_path):
    (tmp_path / "relation.json").write_text("{}")
    (tmp_path / "safe_words.txt").write_text("a")
    for items, message in (
        ([{"id": 1, "type": "generative", "truth": "yes"}], "item 1 of the type 'generative'"),
        ([{"id": 1, "type": "relation", "truth": ["a"], "hallu": []}], "item 1 of the type"),
        ([{"id": 1, "type": "relation", "truth": "yes"}] * 2, "item 1 again"),
        ([{"id": "1", "type": "relation", "truth": "yes"}], r"\[0\].id is text"),
        ({"a": {"id": 1}}, "no key 'type'"),
    ):
        (tmp_path / "annotations.json").write_text(json.dumps(items))
        with pytest.raises(VlmHeadsError, match=message):
            load_amber(tmp_path)
