"""`vlmheads detect` with each measure, on scenes of the test bench and its small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detecting import make_scenes, record, run

from vlmheads import Captioner, HeadMap
from vlmheads.commands.coco_words import coco_folder, object_spans, objects_of
from vlmheads.commands.measurement import Measurement, Options
from vlmheads.commands.measures import LARGEST, SINKS, finished
from vlmheads.detect import text_dominance
from vlmheads.errors import VlmHeadsError

SAID = "There is a dog and a cat. There is a fork."


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), "--num", "3", "--seed", "5")


@pytest.mark.parametrize(
    ("measure", "main_map"),
    [
        ("vhd", "VHD"),
        ("sinks", "sink share"),
        ("dominance", "image attention"),
        ("attention-sink", "first-token attention"),
    ],
)
def test_every_measure_is_averaged_over_a_folder(
    scenes: Path, tmp_path: Path, measure: str, main_map: str
) -> None:
    out, plot = tmp_path / "map.safetensors", tmp_path / "map.png"
    files = ("--out", out, "--plot", plot)
    found = record(scenes, "--measure", measure, "--batch-size", 2, "--top", 2, *files)
    assert (found["measure"], next(iter(found["maps"]))) == (measure, main_map)
    assert found["maps"][main_map]["images"] == HeadMap.load(out).images == 3
    assert len(found["maps"][main_map]["top"]) == 2
    assert plot.stat().st_size > 1000


def test_one_image_has_a_dash_for_its_standard_error(scenes: Path) -> None:
    done = run(next(scenes.iterdir()), "--measure", "attention-sink", "--top", 1)
    rows = [line for line in done.stdout.splitlines() if line.startswith("│") and "." in line]
    assert rows
    assert all(row.split("│")[-2].strip() == "-" for row in rows)


def test_figures_are_means_over_images_with_their_standard_error(scenes: Path) -> None:
    found = record(scenes, "--measure", "dominance", "--max-new-tokens", 4)["figures"]
    captioner = Captioner.from_pretrained("embedded", ())
    inputs = captioner.prepare(sorted(scenes.iterdir()), "Describe the image.")
    mdi = text_dominance(captioner.model, inputs, max_new_tokens=4, do_sample=False).mdi()[:, 2]
    seen = found["MDI, late layers"]
    assert seen["mean"] == pytest.approx(float(mdi.mean()), rel=1e-4)
    assert seen["standard_error"] == pytest.approx(float(mdi.std() / 3**0.5), rel=1e-3)


def test_tables_show_figures_and_heads(scenes: Path) -> None:
    image = next(scenes.iterdir())
    done = run(image, "--measure", "attention-sink", "--top", 1)
    assert done.exit_code == 0
    assert "mean of 1 image" in done.stdout
    assert "Sink of the first token" in done.stdout


def test_sinks_of_one_image_are_drawn_over_it(scenes: Path, tmp_path: Path) -> None:
    image, drawn = next(scenes.iterdir()), tmp_path / "sinks.png"
    found = record(image, "--measure", "sinks", "--tau", 4, "--overlay", drawn)
    assert drawn.stat().st_size > 1000
    assert found["notes"]["on record"] == "none"
    assert found["maps"]["sink share"]["top"][0]["standard_error"] is None
    done = run(scenes, "--measure", "sinks", "--overlay", drawn)
    assert done.exit_code == 2
    assert "3 images" in done.stderr


def test_a_threshold_out_of_reach_is_said_to_be_one(scenes: Path) -> None:
    found = record(next(scenes.iterdir()), "--measure", "sinks", "--tau", 20)
    assert found["conclusion"].startswith("This model has no sinks at τ = 20: ")
    assert "width 256 cannot exceed φ = 16.0" in found["conclusion"]


def test_a_model_without_sinks_gets_one_sentence_instead_of_tables(scenes: Path) -> None:
    done = run(scenes, "--measure", "sinks")
    assert done.exit_code == 0, done.output
    (sentence,) = " ".join(done.stdout.split()).split(". ")
    assert sentence.startswith("This model has no sinks at τ = 20: ")


def test_image_tokens_below_the_threshold_are_said_to_be(scenes: Path) -> None:
    part = Measurement({}, {LARGEST: [7.25, 3.0], SINKS: [0.0, 0.0]}, {"τ": 20.0, "width": 4096})
    captioner = Captioner.from_pretrained("embedded", ())
    assert finished(captioner, part, Options("sinks", "", {})).conclusion == (
        "No image token is a sink in 2 images: the largest φ of one is 7.2, and a sink has at "
        "least τ = 20."
    )


def test_attribution_takes_its_words_from_generated_captions_and_the_coco_folder(
    scenes: Path,
) -> None:
    found = record(scenes, "--measure", "attribution", "--max-new-tokens", 32)
    assert found["maps"]["effect on grounded words"]["images"] >= 1
    again = record(
        scenes, "--measure", "attribution", "--max-new-tokens", 32, "--coco", scenes.parent
    )
    assert again == found


def test_a_caption_is_split_by_what_the_coco_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    content = {
        "images": [{"id": 3, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"image_id": 3, "category_id": 1}],
    }
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    people = {"images": content["images"], "annotations": [{"image_id": 3, "caption": "A cat."}]}
    (tmp_path / "annotations" / "captions_val.json").write_text(json.dumps(people))
    assert coco_folder([tmp_path / "images" / "a.png"]) == tmp_path
    objects = objects_of(tmp_path)
    assert objects == {"a.png": frozenset({"dog", "cat"})}
    grounded, hallucinated = object_spans(SAID, objects["a.png"])
    assert [SAID[slice(*span)] for span in grounded] == ["dog", "cat"]
    assert [SAID[slice(*span)] for span in hallucinated] == ["fork"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"without instances"),
        ("[", "cannot be read"),
        ("[]", "a JSON list"),
        ("{}", "images"),
    ],
)
def test_a_coco_folder_of_another_shape_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "instances.json").write_text(content)
    with pytest.raises(VlmHeadsError, match=message):
        objects_of(tmp_path)


def test_a_coco_folder_is_refused_where_nothing_reads_it(scenes: Path) -> None:
    done = run(scenes, "--measure", "vhd", "--coco", scenes.parent)
    assert done.exit_code == 2
    assert "--coco with --measure vhd" in done.stderr


def test_attribution_takes_its_words_from_a_file(scenes: Path, tmp_path: Path) -> None:
    words, out = tmp_path / "words.jsonl", tmp_path / "map.safetensors"
    kinds = [(["dog", "cat"], ["fork"]), (["dog"], ["cat"]), (["dog"], [])]
    lines = [
        {"image": path.name, "caption": SAID, "grounded": grounded, "hallucinated": hallucinated}
        for path, (grounded, hallucinated) in zip(sorted(scenes.iterdir()), kinds, strict=True)
    ]
    words.write_text("\n".join(json.dumps(line) for line in lines))
    found = record(scenes, "--measure", "attribution", "--words", words, "--out", out)
    assert found["maps"]["attribution"]["images"] == 2
    assert found["maps"]["effect on grounded words"]["images"] == 3
    assert found["notes"]["ablation against gradient"].startswith("Pearson ")
    score = HeadMap.load(out)
    assert (score.measure, score.provenance["factor"]) == ("attribution", 0.0)
    assert bool(torch.isfinite(score.values).all())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{", "words.jsonl:1: not JSON"),
        ('{"image": "other.png"}', "has no line for"),
    ],
)
def test_words_that_are_missing_are_asked_for(
    scenes: Path, tmp_path: Path, lines: str, message: str
) -> None:
    words = tmp_path / "words.jsonl"
    words.write_text(lines)
    done = run(scenes, "--measure", "attribution", "--words", words)
    assert done.exit_code == 2
    assert message in done.stderr


def test_images_outside_of_a_coco_folder_need_words(scenes: Path, tmp_path: Path) -> None:
    image = tmp_path / "deep" / "deeper" / "a.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(next(scenes.iterdir()).read_bytes())
    done = run(image, "--measure", "attribution")
    assert done.exit_code == 2
    assert "attribution without words, of images outside of a COCO folder" in done.stderr
