"""Every option of every command with hostile values: exit code 0, 1 or 2, and one line for a 2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vlmheads.cli import main

# Half of them are tried for each option, in turn.
VALUES = [
    "",
    "abc",
    "-1",
    "0",
    "1e999",
    "nan",
    "9" * 400,
    "\x1b[31mred",
    "a" * 300,
    "../../nowhere/x",
    "/proc/nowhere/x.png",
    "/dev/null/x.png",
    "[" * 3000,
    "vhr:alpha=" + "[" * 3000,
    "vhr:layers=[" + "9" * 400 + "]",
    "a,b,c",
    "\udcff.png",
]
# Commands that would work for long, or serve, where a value is fine.
ENDLESS = {"demo", "testbed get", "testbed try"}


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, with its name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        elif found is not None and " ".join((*path, name)) not in ENDLESS:
            yield " ".join((*path, name)), found


COMMANDS = dict(commands(main))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    (folder / "truth.json").write_text(json.dumps({"1": ["dog"], "2": ["cat"]}))
    for name in ("a", "b"):
        lines = [{"image_id": n, "caption": "A dog."} for n in (1, 2)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    question = {"question_id": 1, "image": "1.png", "text": "Is there a dog?", "label": "yes"}
    (folder / "pope_random.json").write_text(json.dumps(question))
    (folder / "answers.jsonl").write_text('{"question_id": 1, "answer": "yes"}')
    return folder


def base(command: str, folder: Path) -> list[str]:
    """Arguments under which a command works fast, or refuses for want of a model or of data."""
    truth = ["--ground-truth", str(folder / "truth.json")]
    runs = [str(folder / "a.jsonl"), str(folder / "b.jsonl")]
    known = {
        "bake": ["./nowhere", str(folder / "nothing.safetensors"), str(folder / "baked")],
        "caption": [str(folder), "--model", "./nowhere"],
        "calibrate": ["--data", "./nowhere", "--out", str(folder / "gains.safetensors")],
        "detect": [str(folder / "no.png"), "--model", "./nowhere"],
        "verify": ["./nowhere"],
        "serve": ["--model", "./nowhere"],
        "learn": [
            "cicd", "--model", "./nowhere", "--data", "./nowhere",
            "--out", str(folder / "learned.safetensors"),
        ],
        "tune": [
            "--model", "./nowhere", "--data", "./nowhere", "--out", str(folder / "tuned"),
        ],
        "eval predict": ["--data", "./nowhere", "--out", str(folder / "run")],
        "eval run": ["./nowhere", "--out", str(folder / "sweep")],
        "eval compare": [*runs, *truth, "--draws", "100"],
        "eval report": [*runs, *truth, "--draws", "100", "--out", str(folder / "report")],
        "eval score chair": [runs[0], *truth],
        "eval score pope": [
            str(folder / "answers.jsonl"), "-g", str(folder / "pope_random.json"),
        ],
        "eval score amber": [runs[0], *truth],
        "testbed make": [str(folder / "scenes"), "--num", "1"],
    }  # fmt: skip
    return known.get(command, [])


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_option_brings_a_command_down(
    name: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    runner = CliRunner()
    for number, parameter in enumerate(COMMANDS[name].params):
        flags = parameter.opts if isinstance(parameter, click.Option) else []
        if isinstance(parameter, click.Option) and parameter.is_flag:
            continue
        for value in VALUES[number % 2 :: 2]:
            if value == "0" and parameter.name == "num":
                continue
            given = [flags[-1], value] if flags else [value]
            result = runner.invoke(main, [*name.split(), *base(name, files), *given])
            crash = result.exception
            assert crash is None or isinstance(crash, SystemExit), (given, repr(crash))
            assert result.exit_code in (0, 1, 2), given
            if result.exit_code == 2:
                last = result.stderr.splitlines()[-1]
                assert last.startswith(("error: ", "note: ")), (given, result.stderr)
                assert sum(line.startswith("error: ") for line in result.stderr.splitlines()) == 1
            assert "\x1b[31m" not in result.output


def test_every_command_is_tried() -> None:
    assert {"caption", "eval score chair", "eval compare", "detect"} <= set(COMMANDS)
