"""A whole search on the embedded model: to the end, stopped and gone on with, and on nonsense."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from vlmheads_eval.commands.tune import tune as command
from vlmheads_eval.tune import Settings, tune
from vlmheads_eval.tune.outcome import Outcome
from vlmheads_eval.tune.verdict import NONE
from vlmheads_testbed.coco import write_dataset

from vlmheads.errors import VlmHeadsError
from vlmheads.registry import resolve

NUM = 48
BATCH = 24
# What differs between two calls that find the same.
SPENT = ("speed", "evidence", "settings", "plan")


class Stopped(BaseException):
    """As a signal would stop it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "scenes"
    write_dataset(folder, "val", NUM)
    return folder


def settings(data: Path, out: Path, methods: tuple[str, ...], **given: Any) -> Settings:
    return Settings(
        "embedded", str(data), out, methods=methods, max_new_tokens=40, batch_size=BATCH, **given
    )


def stopping(after: int) -> Callable[[int], Callable[[int], None]]:
    """Progress that stops the search after a number of captions."""
    left = [after]

    def made(number: int) -> None:
        left[0] -= number
        if left[0] < 0:
            raise Stopped

    return lambda total: made


@pytest.fixture(scope="module")
def searched(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[str]]:
    told: list[str] = []
    out = tmp_path_factory.mktemp("searched")
    outcome = tune(settings(data, out, ("adhh", "deco"), force=True), told.append)
    return outcome, told


def found(outcome: Outcome) -> dict[str, Any]:
    result = json.loads(outcome.files[0].read_bytes())
    return {key: value for key, value in result.items() if key not in SPENT}


def test_the_plan_and_its_estimate_are_said_before_anything_else(
    searched: tuple[Outcome, list[str]],
) -> None:
    _, told = searched
    assert told[0].startswith("plan: 48 images: 8 to learn, 16 to select, 24 to confirm; 9 cand")
    assert "s per plain caption" in told[3]


def test_a_search_ends_in_a_verdict_and_a_report(searched: tuple[Outcome, list[str]]) -> None:
    outcome, _ = searched
    result = found(outcome)
    assert len(result["selection"]) == 9
    assert len(result["judgements"]) == 3
    assert result["confirmation"]["images"] == 24
    page = outcome.files[2].read_text()
    assert "<svg" in page
    assert "src=" not in page.replace('src="data:', "")
    assert outcome.verdict in outcome.files[1].read_text()


def test_a_forced_preset_acts_and_says_that_nothing_was_shown(
    searched: tuple[Outcome, list[str]],
) -> None:
    outcome, _ = searched
    if outcome.recommended:
        pytest.fail("48 scenes cannot recommend a setting here; choose another for this test")
    assert outcome.preset is not None
    about = json.loads(outcome.preset.read_bytes())
    assert about["evidence"]["verdict"] == NONE
    assert "models" not in about, "auto must not take it"
    assert "weights" not in about, "auto must not take it"
    assert resolve(str(outcome.preset))


def test_a_search_that_was_stopped_twice_finds_the_same(
    data: Path, searched: tuple[Outcome, list[str]], tmp_path: Path
) -> None:
    asked = settings(data, tmp_path, ("adhh", "deco"), force=True)
    for after in (20, 150):
        with pytest.raises(Stopped):
            tune(asked, progress=stopping(after))
        assert not (tmp_path / "tune.json").exists()
    (run,) = (tmp_path / "runs" / "select-0-8").glob("plain-*")
    with (run / "predictions.jsonl").open("a") as file:
        file.write('{"sample": "half a li')  # As a process that is killed leaves it.
    assert found(tune(asked)) == found(searched[0])


def test_a_search_that_is_killed_finds_the_same(
    data: Path, searched: tuple[Outcome, list[str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "vlmheads", "tune", "--data", str(data)]
    command += ["--out", str(tmp_path / "out"), "--methods", "adhh,deco", "--force"]
    command += ["--max-new-tokens", "40", "--batch-size", str(BATCH)]
    killed = 0
    for part in ("select-8-16", "confirm-0-24"):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as job:
            end = time.monotonic() + 120
            while job.poll() is None and time.monotonic() < end:
                if any((tmp_path / "out" / "runs").glob(f"{part}/*/predictions.jsonl")):
                    job.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.01)
            killed += job.wait(timeout=60) == -signal.SIGKILL
            assert job.returncode in (0, -signal.SIGKILL), job.stderr and job.stderr.read().decode()
    assert killed == 2, "the search has to be stopped for this to say anything"
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    result = json.loads((tmp_path / "out" / "tune.json").read_bytes())
    assert {key: one for key, one in result.items() if key not in SPENT} == found(searched[0])


def test_another_search_is_refused_in_the_same_folder(
    data: Path, searched: tuple[Outcome, list[str]]
) -> None:
    out = searched[0].files[0].parent
    before = {file: file.read_bytes() for file in (out / "data").glob("*.json")}
    with pytest.raises(VlmHeadsError, match="seed 0 -> 1"):
        tune(settings(data, out, ("adhh", "deco"), seed=1))
    assert {file: file.read_bytes() for file in (out / "data").glob("*.json")} == before


def test_annotations_of_other_images_recommend_nothing(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "instances.json").read_bytes())
    ids = [image["id"] for image in content["images"]]
    others = dict(zip(ids, random.Random(0).sample(ids, len(ids)), strict=True))
    for one in content["annotations"]:
        one["image_id"] = others[one["image_id"]]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(data / "images")
    result = CliRunner().invoke(
        command,
        f"--data {tmp_path} --out {tmp_path / 'out'} --methods deco --max-new-tokens 40 "
        f"--batch-size {BATCH}",
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert f"verdict: {NONE}" in said
    assert "the annotations are not of these images" in said
    assert not (tmp_path / "out" / "preset.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "gryphon"), "gryphon"),
        (("--methods", "all,deco"), "all"),
        (("--budget", "soon"), "budget 'soon'"),
        (("--name", "a/b"), "letters"),
        (("--num", "40"), "at least 48"),
        (("--data", "nowhere"), "JSON Lines"),
        (("--alpha", "0.1"), "--alpha"),
        (("--words", "--budget", "1h"), "--budget"),
        (("--words", "--methods", "all"), "--methods"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
