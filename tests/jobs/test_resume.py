"""Jobs that are killed, interrupted, repeated and changed: nothing is lost, and nothing twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_job import caption, describe, paint
from PIL import Image

from vlmheads.errors import VlmHeadsError

NUMBER = 40
SCRIPT = str(Path(__file__).with_name("fake_job.py"))


class Killed(BaseException):
    pass


def dying(after: int) -> Any:
    """Describe so many images, then die."""
    left = after

    def fail(images: Sequence[Image.Image]) -> list[dict[str, Any]]:
        nonlocal left
        left -= len(images)
        if left < 0:
            raise Killed
        return describe(images)

    return fail


def listening() -> tuple[Any, list[Any]]:
    """Describe, and note what was asked for."""
    asked: list[Any] = []

    def listen(images: Sequence[Image.Image]) -> list[dict[str, Any]]:
        asked.extend(image.getpixel((0, 0))[0] for image in images)  # type: ignore[index]
        return describe(images)

    return listen, asked


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    paint(tmp_path / "images", NUMBER)
    return tmp_path / "images"


@pytest.fixture
def whole(images: Path, tmp_path: Path) -> bytes:
    """The captions of a job that nobody stopped."""
    out = tmp_path / "whole.jsonl"
    caption(images, out)
    return out.read_bytes()


def test_a_record_says_which_file_it_is_of(images: Path, tmp_path: Path) -> None:
    summary = caption(images, tmp_path / "out.jsonl")
    first = records(tmp_path / "out.jsonl")[0]
    source = first.pop("source")
    assert first == {"file_name": "000.png", "text": "The colour (0, 0, 0).", "tokens": 3}
    file = (images / "000.png").stat()
    assert (source["bytes"], source["modified"]) == (file.st_size, file.st_mtime_ns)
    assert (summary.done, summary.skipped, summary.failed) == (NUMBER, 0, 0)


def test_lines_end_in_the_order_of_the_images(whole: bytes, tmp_path: Path) -> None:
    names = [record["file_name"] for record in records(tmp_path / "whole.jsonl")]
    numbers = range(0, NUMBER, 2)
    expected = [f"{n:03d}.png" for n in numbers] + [f"more/{n + 1:03d}.png" for n in numbers]
    assert names == expected


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_job_killed_at_random_ends_as_if_it_had_not_been(
    images: Path, tmp_path: Path, kind: str
) -> None:
    """Ten kills of a process at random times, for each of two formats."""
    draws = random.Random(f"kills {kind}")
    out = tmp_path / ("out.jsonl" if kind == "jsonl" else "out")
    command = [sys.executable, SCRIPT, str(images), str(out), kind]
    kills = 0
    deadline = time.monotonic() + 60
    while kills < 10 and time.monotonic() < deadline:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        lines = out if kind == "jsonl" else out / ".vlmheads" / "captions.jsonl"
        before = lines.stat().st_size if lines.is_file() else 0
        while process.poll() is None and time.monotonic() < deadline:
            grown = lines.is_file() and lines.stat().st_size > before
            if grown or draws.random() < 0.02:
                break
            time.sleep(0.005)
        time.sleep(draws.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert b"Error" not in said, said.decode()
        kills += 1
        if kind == "jsonl" and draws.random() < 0.5 and out.is_file():
            content = out.read_bytes()
            out.write_bytes(content[: len(content) - draws.randrange(90)])  # a torn last line
    assert kills == 10
    caption(images, out, kind)
    found = records(lines)
    assert len(found) == len({record["file_name"] for record in found}) == NUMBER
    caption(images, tmp_path / "whole.jsonl")
    assert lines.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    if kind == "txt":
        texts = {path.stem: path.read_text() for path in out.rglob("*.txt")}
        assert texts == {f"{n:03d}": f"The colour ({n}, 0, 0).\n" for n in range(NUMBER)}
        assert not list(out.rglob("*.part*"))


@pytest.mark.parametrize("point", range(8))
def test_a_job_that_dies_while_describing_goes_on(
    images: Path, whole: bytes, tmp_path: Path, point: int
) -> None:
    draws = random.Random(point)
    out = tmp_path / "out.jsonl"
    for _ in range(3):
        with pytest.raises(Killed):
            caption(images, out, work=dying(draws.randrange(9)), batch_size=draws.randint(1, 5))
        content = out.read_bytes()
        out.write_bytes(content[: draws.randint(0, len(content))])
    caption(images, out, batch_size=draws.randint(1, 9))
    assert out.read_bytes() == whole


def test_what_has_a_caption_is_not_asked_again(images: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        caption(images, tmp_path / "out.jsonl", work=dying(9))
    there = {record["text"] for record in records(tmp_path / "out.jsonl")}
    work, asked = listening()
    summary = caption(images, tmp_path / "out.jsonl", work=work)
    assert len(there) == summary.skipped == 8
    assert len(asked) == len(set(asked)) == summary.done == NUMBER - 8


def test_a_replaced_picture_is_captioned_anew(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    caption(images, out)
    Image.new("RGB", (30, 30), (200, 0, 0)).save(images / "004.png")
    os.utime(images / "006.png", (1, 1))  # touched, and the same
    work, asked = listening()
    summary = caption(images, out, work=work)
    assert asked == [200]
    assert (summary.done, summary.skipped) == (1, NUMBER - 1)
    found = {record["file_name"]: record["text"] for record in records(out)}
    assert len(records(out)) == NUMBER
    assert found["004.png"] == "The colour (200, 0, 0)."


def test_other_settings_are_refused_with_what_differs(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    caption(images, out)
    with pytest.raises(VlmHeadsError, match=r'model "none" -> "other"; expected the same'):
        caption(images, out, settings={"model": "other"})
    summary = caption(images, out, settings={"model": "other"}, overwrite=True)
    assert (summary.done, len(records(out))) == (NUMBER, NUMBER)
    with pytest.raises(VlmHeadsError, match='model "other" -> "none"'):
        caption(images, out)


def test_captions_from_elsewhere_are_not_mixed_with_new_ones(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text('{"file_name": "000.png", "text": "Mine."}\n')
    with pytest.raises(VlmHeadsError, match=r"settings\.json, which says how they were made"):
        caption(images, out)
    assert out.read_text() == '{"file_name": "000.png", "text": "Mine."}\n'


def test_two_jobs_on_one_output_are_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    lock = tmp_path / "out.job" / "lock"
    code = (
        "import sys; from pathlib import Path\n"
        "from vlmheads.jobs.lines import only_writer\n"
        "with only_writer(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", code, str(lock)], **pipes)  # type: ignore[call-overload]
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(VlmHeadsError, match="another job writes to"):
            caption(images, out)
        other.kill()
    finally:
        other.communicate()
    caption(images, out)  # the lock went with the process


def test_failures_are_in_a_file_of_their_own_and_tried_again_on_request(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    failed = tmp_path / "out.job" / "failed.jsonl"
    good = (images / "002.png").read_bytes()
    (images / "002.png").write_bytes(good[:50])
    summary = caption(images, out)
    assert (summary.done, summary.failed, summary.earlier) == (NUMBER - 1, 1, 0)
    assert records(failed)[0]["file_name"] == "002.png"
    assert "002.png cannot be read" in records(failed)[0]["error"]
    assert all("error" not in record for record in records(out))

    work, asked = listening()
    summary = caption(images, out, work=work)
    assert (asked, summary.failed, summary.earlier) == ([], 1, 1)
    said: list[str] = []
    summary = caption(
        images, out, retry_failed=True, progress=lambda done, total, error: said.append(error)
    )
    assert (summary.failed, summary.earlier, len(records(failed))) == (1, 0, 1)
    assert "002.png" in said[0]

    (images / "002.png").write_bytes(good)  # repaired, so that it need not be asked for
    summary = caption(images, out)
    assert (summary.done, summary.failed) == (1, 0)
    assert not failed.exists()


def test_a_failure_at_a_replaced_picture_stands_until_it_has_a_new_caption(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    caption(images, out)
    good = (images / "002.png").read_bytes()
    (images / "002.png").write_bytes(b"no image")
    assert caption(images, out).failed == 1
    (images / "002.png").write_bytes(good)
    assert caption(images, out).failed == 0  # it has a caption
    (images / "002.png").write_bytes(b"no image")
    assert caption(images, out).failed == 1
    assert caption(images, out).failed == 1
    Image.new("RGB", (9, 9), (99, 0, 0)).save(images / "002.png")
    assert caption(images, out).failed == 0
    assert {record["file_name"]: record["text"] for record in records(out)}["002.png"] == (
        "The colour (99, 0, 0)."
    )


def test_an_image_at_which_the_model_fails_does_not_stop_the_others(
    images: Path, tmp_path: Path
) -> None:
    def picky(pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        if any(picture.getpixel((0, 0)) == (7, 0, 0) for picture in pictures):
            raise ValueError("an odd one")
        return describe(pictures)

    summary = caption(images, tmp_path / "out.jsonl", work=picky)
    assert (summary.done, summary.failed) == (NUMBER - 1, 1)
    (failure,) = records(tmp_path / "out.job" / "failed.jsonl")
    assert failure["error"] == "the model fails at this image (an odd one)"


def test_a_model_that_fails_at_every_image_stops_the_job(images: Path, tmp_path: Path) -> None:
    def broken(pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        raise RuntimeError("device-side assert")

    with pytest.raises(VlmHeadsError, match="10 images in a row, lastly with: device-side assert"):
        caption(images, tmp_path / "out.jsonl", work=broken)
    assert caption(images, tmp_path / "out.jsonl", retry_failed=True).done == NUMBER


def test_an_empty_caption_is_a_failure(images: Path, tmp_path: Path) -> None:
    def silent(pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        return [{"text": " ", "tokens": 0} for _ in pictures]

    summary = caption(images, tmp_path / "out", "txt", work=silent)
    assert summary.failed == NUMBER
    assert not list((tmp_path / "out").rglob("*.txt"))


def test_a_score_that_is_no_number_is_null(images: Path, tmp_path: Path) -> None:
    def scored(pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        words = [{"object": "dog", "score": float("nan"), "flagged": True}]
        return [{"text": "A dog.", "words": words} for _ in pictures]

    summary = caption(images / "000.png", tmp_path / "out.jsonl", work=scored)
    assert records(tmp_path / "out.jsonl")[0]["words"][0]["score"] is None
    assert summary.flagged == 1


def test_a_disk_that_fills_up_is_one_line_and_keeps_what_is_finished(
    images: Path, tmp_path: Path, whole: bytes
) -> None:
    out = tmp_path / "out.jsonl"
    code = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, SCRIPT, str(images), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"{out} cannot be written (File too large)" in last
    assert "what is finished is kept" in last
    assert 5 < len(out.read_bytes().splitlines()) < NUMBER
    caption(images, out)
    assert out.read_bytes() == whole


def test_names_stay_relative_to_where_the_job_began(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    caption(images, out)
    work, asked = listening()
    caption(images / "more", out, work=work)
    assert asked == []
    paint(tmp_path / "others", 1)
    with pytest.raises(VlmHeadsError, match="is outside of"):
        caption([images, tmp_path / "others"], out)
    assert len(records(out)) == NUMBER


def launch(images: Path, out: Path, world: int, **environment: str) -> int:
    """Run a job on so many processes, as accelerate starts them, and return the exit status."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_machines=1", f"--num_processes={world}", "--mixed_precision=no"]
    command += ["--dynamo_backend=no", "--main_process_port=0", SCRIPT, str(images), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
    return done.returncode


def test_processes_share_a_job_and_others_go_on_with_it(
    images: Path, whole: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    status = launch(images, out, 2, DIE_AT="6")
    assert status != 0
    parts = list((tmp_path / "out.job").glob("captions.rank*.jsonl"))
    kept = sum(len(records(path)) for path in parts)
    assert 0 < kept < NUMBER
    caption(images, out)
    assert out.read_bytes() == whole
    assert not list((tmp_path / "out.job").glob("*.rank*"))
