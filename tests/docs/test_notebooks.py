"""The notebooks of docs/notebooks/ are the cells of their script, executed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_notebooks", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))
    return found


def words(cells: list[dict[str, Any]]) -> list[str]:
    """What cells show, without tags and numbers, which differ between processors."""
    found = []
    for cell in cells:
        for output in cell.get("outputs", ()):
            text = output.get("text") or output["data"].get("text/html", "")
            found.append(re.sub(r"<[^>]+>|[\d.\s-]+", " ", text))
    return found


def test_every_notebook_holds_the_cells_of_its_script(make: ModuleType) -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(make.NOTEBOOKS)
    for name, texts in make.NOTEBOOKS.items():
        found = saved(name)
        assert found["nbformat"] == 4
        assert [cell["source"] for cell in found["cells"]] == [
            text.removeprefix(make.CODE) for text in texts
        ], "run python docs/notebooks/make.py"
        code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
        assert not re.search(r"/(?:home|root|tmp|work)/", json.dumps(found))


def test_the_quick_start_shows_what_it_shows_when_it_is_run_again(make: ModuleType) -> None:
    again = make.notebook("quick-start")
    assert words(again["cells"]) == words(saved("quick-start")["cells"])
    assert "suitcase" in words(again["cells"])[1]


def test_a_cell_gives_what_it_prints_and_its_last_value(make: ModuleType) -> None:
    names: dict[str, Any] = {}
    assert make.run_cell("x = 2", names) == []
    printed, value = make.run_cell("print(x)\nx + 1", names)
    assert printed["text"] == "2\n"
    assert value["data"] == {"text/plain": "<int>"}
