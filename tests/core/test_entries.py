"""A broken entry point of any group is reported by name and left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BREAKS = {
    "fails": "raise RuntimeError('no such\\nluck')",
    "exits": "import sys; sys.exit(0)",
    "exits_hard": "raise SystemExit('bye')",
    "lacks": "x = 1",
    "odd": "thing = 3",
}
GROUPS = ("plugins", "presets", "commands", "models", "objects")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one package for each way to break, which names itself in every group."""
    folder = tmp_path_factory.mktemp("site")
    for name, source in BREAKS.items():
        (folder / f"{name}_module.py").write_text(source)
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        text = "".join(
            f"[vlmheads.{group}]\n{name} = {name}_module{'' if group == 'presets' else ':thing'}\n"
            for group in GROUPS
        )
        (info / "entry_points.txt").write_text(text)
    return folder


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_no_group_is_taken_down(broken: Path) -> None:
    done = run(
        broken,
        "import vlmheads\n"
        "from vlmheads.registry import list_presets\n"
        "from vlmheads.grounding.words import find_objects\n"
        "from vlmheads.model.loading import locate, packaged_models\n"
        "print('vhr' in vlmheads.list_plugins(), 'fails' in vlmheads.list_plugins())\n"
        "print('vhr-llava15.json' in list_presets())\n"
        "print(find_objects('a dog'))\n"
        "print(locate('embedded') != '')\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True False", "True", "((2, 5, 'dog'),)", "True"]
    for group in ("plugin", "preset", "object"):
        for name in ("fails", "exits", "exits_hard"):
            assert f"{group} '{name}' ({name}_module" in done.stderr
    assert "no such luck" in done.stderr


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_command_or_model_says_so_when_it_is_used(broken: Path, name: str) -> None:
    done = run(
        broken,
        "from click.testing import CliRunner\n"
        "from vlmheads.cli import main\n"
        "ask = CliRunner().invoke\n"
        "listed = ask(main, ['--help'])\n"
        "print(listed.exit_code, 'caption' in listed.output)\n"
        f"used = ask(main, ['{name}', '--x'])\n"
        "print(used.exit_code, used.stderr, end='')\n"
        f"model = ask(main, ['presets', '--for', '{name}'])\n"
        "print(model.exit_code, model.stderr, end='')\n",
    )
    assert done.returncode == 0, done.stderr
    listed, used, model = done.stdout.splitlines()
    assert listed == "0 True"
    assert used.startswith(f"2 error: command '{name}' ({name}_module:thing) ")
    assert model.startswith(f"2 error: model '{name}' ({name}_module:thing) ")
