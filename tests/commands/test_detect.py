"""`vlmheads detect` with each measure, on scenes of the test bench and its small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from vlmheads import Captioner, HeadMap
from vlmheads.cli import main
from vlmheads.detect import text_dominance

SAID = "There is a dog and a cat. There is a fork."


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    done = CliRunner().invoke(main, ["testbed", "make", str(folder), "--num", "3", "--seed", "5"])
    assert done.exit_code == 0, done.output
    return folder / "images"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["detect", *(str(argument) for argument in arguments)])


def record(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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


def test_figures_are_means_over_images_with_their_standard_error(scenes: Path) -> None:
    found = record(scenes, "--measure", "dominance", "--max-new-tokens", 4)["figures"]
    captioner = Captioner.from_pretrained("embedded")
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
    assert found["notes"]["no sinks"] == "no state of width 256 reaches φ = 20"


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
        (None, "attribution without words"),
        ("{", "words.jsonl:1: not JSON"),
        ('{"image": "other.png"}', "has no line for"),
    ],
)
def test_words_that_are_missing_are_asked_for(
    scenes: Path, tmp_path: Path, lines: str | None, message: str
) -> None:
    words = tmp_path / "words.jsonl"
    words.write_text(lines or "")
    given = () if lines is None else ("--words", words)
    done = run(scenes, "--measure", "attribution", *given)
    assert done.exit_code == 2
    assert message in done.stderr
