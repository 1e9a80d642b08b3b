"""A run is resumed only with what it was started with, and says what failed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from vlmheads_eval.commands.evaluate import evaluate
from vlmheads_eval.data import Material, Sample, load_material
from vlmheads_eval.predict.fingerprint import data_files, questions_sha256
from vlmheads_eval.predict.model import Answer, versions
from vlmheads_eval.predict.run import predict
from vlmheads_eval.run_folder import counts, failures

from vlmheads.errors import VlmHeadsError
from vlmheads.images import read_image
from vlmheads.jobs.processes import launched
from vlmheads.model.fingerprint import model_fingerprint, settled_dtype


def ask(run, samples, **options):
    def describe(images, prompts):
        return [Answer("A dog.", 3, False) for _ in images]

    config = {"samples": [sample.key for sample in samples]}
    predict(run, config, samples, describe, read=read_image, batch_size=2, **options)


@pytest.fixture
def samples(tmp_path):
    found = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        found.append(Sample(str(number), path, "What?", {"image_id": number}))
    return found


def test_a_replaced_image_is_named(tmp_path, samples):
    ask(tmp_path / "run", samples)
    ask(tmp_path / "run", samples)
    Image.new("RGB", (8, 8), "white").save(samples[2].image)
    with pytest.raises(VlmHeadsError, match=r"2\.png is another file than when .*run asked"):
        ask(tmp_path / "run", samples)


def test_another_folder_with_other_images_is_refused_and_with_the_same_ones_is_not(
    tmp_path, samples
):
    ask(tmp_path / "run", samples)
    other = tmp_path / "other"
    other.mkdir()
    moved = []
    for sample in samples:
        (other / sample.image.name).write_bytes(sample.image.read_bytes())
        moved.append(Sample(sample.key, other / sample.image.name, sample.prompt, sample.record))
    ask(tmp_path / "run", moved)
    (other / "0.png").write_bytes(samples[1].image.read_bytes())
    with pytest.raises(VlmHeadsError, match="another file"):
        ask(tmp_path / "run", moved)


def test_an_image_that_failed_and_was_repaired_is_asked_about_on_request(tmp_path, samples):
    good = samples[1].image.read_bytes()
    samples[1].image.write_bytes(good[:30])
    run = tmp_path / "run"
    ask(run, samples)
    assert list(failures(run)) == ["1"]
    assert counts(run) == (4, 3, 1, 0)
    samples[1].image.write_bytes(good)
    with pytest.raises(VlmHeadsError, match="pass --retry-failed"):
        ask(run, samples)
    ask(run, samples, retry_failed=True)
    assert counts(run) == (4, 4, 0, 0)
    assert not failures(run)


def test_everything_that_is_asked_counts():
    one = Sample("1", Path("1.png"), "Is there a dog?", {"question_id": 1}, "answer")
    digest = questions_sha256(Material((one,), ()))
    for other in (
        Sample("2", one.image, one.prompt, one.record, "answer"),
        Sample("1", one.image, "Is there a cat?", one.record, "answer"),
        Sample("1", one.image, one.prompt, {"question_id": 2}, "answer"),
    ):
        assert questions_sha256(Material((other,), ())) != digest


def test_ambers_data_count(tmp_path):
    for name in ("annotations.json", "relation.json", "safe_words.txt", "query_all.json", "a.png"):
        (tmp_path / name).write_text("[]")
    assert [path.name for path in data_files(tmp_path)] == [
        "annotations.json", "query_all.json", "relation.json", "safe_words.txt",
    ]  # fmt: skip


def test_every_byte_of_a_model_counts(tmp_path):
    weights = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("a b")
    content = bytearray(40 << 20)
    weights.write_bytes(content)
    before = model_fingerprint(str(tmp_path))
    assert set(before) == {"config.json", "merges.txt", "model.safetensors"}
    content[20 << 20] = 1
    weights.write_bytes(content)
    assert model_fingerprint(str(tmp_path)) != before


def test_auto_says_what_it_stands_for():
    assert settled_dtype("auto", "cpu") == "float32"
    assert settled_dtype("auto", "cuda:0") == "auto"
    assert settled_dtype("bfloat16", "cpu") == "bfloat16"


def test_versions_name_what_decodes_and_resizes_images():
    assert {"pillow", "numpy", "tokenizers", "torch"} <= set(versions())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE='abc'; expected a whole number from 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 in a job of 2"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK='x'"),
    ],
)
def test_a_job_that_cannot_be_is_refused(monkeypatch, values, message):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(VlmHeadsError, match=message):
        launched()


@pytest.fixture
def coco(tmp_path):
    """A folder of two images, one of which is broken."""
    folder = tmp_path / "coco"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (96, 96), "red").save(folder / "images" / "1.png")
    (folder / "images" / "\x1b[31m2.png").write_text("no image")
    content = {
        "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "\x1b[31m2.png"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def test_failed_images_are_counted_named_and_not_scored_in_silence(coco, tmp_path):
    options = ["predict", "--data", str(coco), "--out", str(tmp_path / "run"), "--device", "cpu"]
    done = CliRunner().invoke(evaluate, [*options, "--max-new-tokens", "4"])
    assert done.exit_code == 2
    assert done.stdout.startswith("1 predictions in ")
    assert done.stdout.rstrip().endswith("1 of 2 samples failed")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert r"\x1b[31m2.png is not an image" in line
    out = tmp_path / "score.json"
    scored = CliRunner().invoke(
        evaluate, ["score", "chair", str(tmp_path / "run"), "--json", str(out)]
    )
    assert scored.exit_code == 0
    assert "1 of the run's 2 samples are scored; 1 failed, 0 have no prediction" in scored.stderr
    assert json.loads(out.read_text())["run"] == {
        "samples": 2, "answered": 1, "failed": 1, "missing": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "", ".", "a\0b"])
def test_a_file_outside_the_folder_of_images_is_refused(coco, tmp_path, name):
    entry = {"id": 1, "file_name": name}
    content = {"images": [entry], "annotations": [], "categories": []}
    (coco / "instances.json").write_text(json.dumps(content))
    with pytest.raises(VlmHeadsError, match=r"instances\.json: image 1 names the file"):
        load_material([str(coco)], "caption", workspace=tmp_path)
    question = {"question_id": 1, "image": name, "text": "Is there a dog?", "label": "yes"}
    (tmp_path / "pope_random.json").write_text(json.dumps(question))
    with pytest.raises(VlmHeadsError, match="names the file"):
        load_material([str(tmp_path / "pope_random.json")], "pope", workspace=tmp_path, images=coco)
    (tmp_path / "query_all.json").write_text(json.dumps([{"id": 1, "image": name, "query": "?"}]))
    with pytest.raises(VlmHeadsError, match="query 1 names the file"):
        load_material([str(tmp_path)], "amber", workspace=tmp_path, images=coco)
