"""`vlmheads caption --out` as people run it, on the embedded model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vlmheads import Captioner, VlmHeadsError
from vlmheads.cli import main
from vlmheads.jobs.api import caption_images, work_of
from vlmheads.jobs.run import Plan


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    done = CliRunner().invoke(main, ["testbed", "make", str(folder), "--num", "3", "--seed", "5"])
    assert done.exit_code == 0, done.output
    return folder / "images"


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner.from_pretrained("embedded", ())


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(one) for one in ("caption", *arguments)], input=stdin)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_job_writes_a_record_an_image_and_sums_up(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    options = (scenes, "--out", out, "--compare", "--flag", "--drop", "--threshold", "0.9")
    done = run(*options, "--plugin", "vhr:alpha=2")
    assert (done.exit_code, done.stderr) == (0, "")
    found = records(out)
    flagged = sum(word["flagged"] for record in found for word in record["words"])
    assert flagged > 0
    assert done.stdout == (
        f"3 captioned, 0 had a caption, 0 failed, {flagged} objects flagged: {out}\n"
    )
    assert list(found[0]) == [
        *("file_name", "text", "tokens", "at_limit", "model", "plugins", "plain", "words"),
        *("text_safer", "removed", "source"),
    ]
    assert found[0]["model"] == "embedded"
    assert found[0]["plugins"][0].startswith("vhr:alpha=2")

    again = run(*options, "--plugin", "vhr:alpha=2")
    assert again.stdout.startswith("0 captioned, 3 had a caption, 0 failed")
    other = run(*options, "--plugin", "vhr:alpha=3")
    assert other.exit_code == 2
    assert "was started with another config: plugins" in other.stderr
    early = run(scenes, "--out", out, "--prompt", "What is there?")
    assert (early.exit_code, len(early.stderr.splitlines())) == (2, 1)
    assert 'prompt "Describe the image." -> "What is there?"' in early.stderr


def test_captions_are_those_that_are_printed(scenes: Path, tmp_path: Path) -> None:
    printed = [json.loads(line) for line in run(scenes, "--json").stdout.splitlines()]
    names = "\n".join(str(path) for path in sorted(scenes.iterdir())).encode()
    done = run("-", "--format", "txt", "--out", tmp_path / "texts", stdin=names)
    assert done.exit_code == 0
    written = {path.stem: path.read_text().strip() for path in (tmp_path / "texts").glob("*.txt")}
    assert written == {Path(one["image"]).stem: one["caption"] for one in printed}


def test_failures_end_a_job_with_2_and_are_named(scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(scenes, folder)
    (folder / "broken.png").write_text("no image")
    out = tmp_path / "captions.jsonl"
    done = run(folder, folder / "none.jpg", "--out", out, "--plugin", "none")
    assert done.exit_code == 2
    errors = done.stderr.splitlines()
    assert {line.split(" ")[1] for line in errors} == {"no", str(folder / "broken.png")}
    assert "3 captioned, 0 had a caption, 2 failed" in done.stdout
    assert f"failures are in {tmp_path / 'captions.job' / 'failed.jsonl'}" in done.stdout
    again = run(folder, "--out", out, "--plugin", "none")
    assert again.exit_code == 2
    assert "1 of them from before: --retry-failed tries them again" in again.stdout


def test_an_interrupt_says_how_to_go_on(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "captions.jsonl"
    inner = Captioner.__call__

    def interrupted(self: Captioner, images: Any, *arguments: Any, **options: Any) -> Any:
        if out.stat().st_size:
            raise KeyboardInterrupt
        return inner(self, images, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Captioner, "__call__", interrupted)
        done = run(scenes, "--out", out, "--batch-size", 1)
    assert done.exit_code == 130
    assert done.stderr.splitlines() == [
        "interrupted: what is finished is kept, and the same command (without --overwrite) goes on"
    ]
    assert len(records(out)) == 1
    assert run(scenes, "--out", out).stdout.startswith("2 captioned, 1 had a caption")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--overwrite",), "--overwrite without --out"),
        (("--token-budget", 99), "--token-budget without --out"),
        (("--out", "x.jsonl", "--json"), "--json with --out"),
        (("--out", "x"), "--out x without --format"),
        (("--out", "x.jsonl", "--format", "txt"), "expected a folder"),
        (("--out", "x", "--format", "metadata"), "expected the folder of the images"),
        (("--format", "txt", "--compare"), "--compare with --format txt"),
        (("--out", "/proc/x.jsonl"), "cannot be written"),
        (("--image-column", "x"), "--image-column without a table"),
        (("--attn", "someone/kernel"), "attn 'someone/kernel'; expected eager"),
        (("--device-map", "auto", "--device", "cpu"), "device cpu beside device_map auto"),
        (("--quantization", "int3"), "quantization 'int3'; expected bnb-4bit"),
        (("--out", "a/b/x.jsonl", "--attn", "x"), "attn 'x'; expected eager"),
        (("--out", "x.jsonl", "--prompt", "<image>"), "which stands for an image"),
    ],
)
def test_what_cannot_be_is_one_line(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(scenes, *arguments)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


# A bell, a control sequence in one character, a mark that turns writing around, and no UTF-8.
STEERING = "a\x07\x9b31m\u202e\udcff"


@pytest.mark.parametrize("as_json", [True, False])
def test_names_steer_no_terminal_when_captions_are_printed(
    scenes: Path, tmp_path: Path, as_json: bool
) -> None:
    name = tmp_path / f"{STEERING}.png"
    shutil.copy(next(scenes.iterdir()), name)
    (tmp_path / f"{STEERING}.jpg").write_text("no image")
    done = run(tmp_path, *(("--json",) if as_json else ()), "--plugin", "none")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    said = done.stdout + done.stderr
    assert not set("\x07\x9b\u202e\udcff") & set(said)
    assert r"\x9b31m" in done.stderr
    if as_json:
        found = json.loads(done.stdout)["image"]
        assert found == str(name).replace("\udcff", r"\xff")


def test_names_steer_no_terminal_when_a_job_says_how_it_ends(scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / STEERING
    folder.mkdir()
    (folder / f"{STEERING}.jpg").write_text("no image")
    done = run(folder, "--out", folder / "out.jsonl", "--plugin", "none")
    assert done.exit_code == 2
    assert "0 captioned" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert not set("\x07\x9b\u202e\udcff") & set(done.stdout + done.stderr)


def test_an_empty_list_is_refused() -> None:
    assert "nothing on standard input" in run("-", stdin=b"\n").stderr


def test_images_from_an_iterator_are_captioned_once(
    captioner: Captioner, scenes: Path, tmp_path: Path
) -> None:
    def pairs() -> Any:
        for path in sorted(scenes.iterdir()):
            with Image.open(path) as image:
                yield path.name, image.copy()

    out = tmp_path / "out.jsonl"
    first = caption_images(captioner, pairs(), out, max_new_tokens=12)
    second = caption_images(captioner, pairs(), out, max_new_tokens=12, plan=Plan(batch_size=1))
    assert (first.done, second.done, second.skipped) == (3, 0, 3)
    expected = [caption.text for caption in captioner(sorted(scenes.iterdir()), max_new_tokens=12)]
    assert [record["text"] for record in records(out)] == expected
    with pytest.raises(VlmHeadsError, match="images that come from an iterator"):
        caption_images(captioner, pairs(), tmp_path / "x", kind="parquet")


def test_the_tokens_of_an_image_are_counted_by_the_processor(captioner: Captioner) -> None:
    work = work_of(captioner, {"model": "embedded"}, max_new_tokens=10)
    prompt = captioner.prepare([Image.new("RGB", (300, 200))])["input_ids"].shape[1]
    assert work.cost is not None
    assert work.cost((300, 200)) == prompt + 10


def test_a_prompt_that_no_image_goes_with_is_refused_before_the_first(
    captioner: Captioner, scenes: Path, tmp_path: Path
) -> None:
    with pytest.raises(VlmHeadsError, match="which stands for an image"):
        caption_images(captioner, [scenes], tmp_path / "out.jsonl", prompt="<image> What?")
    assert not (tmp_path / "out.job").exists()
