"""`vlmheads detect` on scenes of the test bench, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from vlmheads.cli import main


def make_scenes(folder: Path, *options: str) -> Path:
    """Write scenes as a COCO folder; return the folder of the images."""
    done = CliRunner().invoke(main, ["testbed", "make", str(folder), *options])
    assert done.exit_code == 0, done.output
    return folder / "images"


def run(*arguments: object) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["detect", *(str(argument) for argument in arguments)])


def record(*arguments: object) -> dict[str, Any]:
    """Return what the command prints with --json."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found
