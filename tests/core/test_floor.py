"""The versions that `make test-floor` installs are the lowest that pyproject.toml allows."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_the_floor_is_the_lowest_version_that_is_allowed(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (required,) = [item for item in project["dependencies"] if item.startswith(f"{name}>=")]
    lowest = required.removeprefix(f"{name}>=").split(",")[0]
    lines = (ROOT / "constraints-floor.txt").read_text("utf-8").splitlines()
    (pinned,) = [line.removeprefix(f"{name}==") for line in lines if line.startswith(f"{name}==")]
    numbers = pinned.split(".")[: lowest.count(".") + 1]
    assert ".".join(numbers) == lowest
