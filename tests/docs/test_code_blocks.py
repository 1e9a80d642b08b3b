"""Every code block of the documents runs, or says why it does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import documents
import pytest
from documents import Page
from vlmheads_testbed import embedded_model
from vlmheads_testbed.coco import write_dataset

from vlmheads.model.loading import load_model

ROOT = Path(__file__).parents[2]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "testbed/README.md")
PAGES = sorted(
    [ROOT / name for name in OUTSIDE] + list((ROOT / "docs").glob("*.md")),
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


def blocks_of(name: str) -> list[documents.Block]:
    return documents.blocks((ROOT / name).read_text("utf-8"), ROOT)


RUNNING = [name for name in NAMES if any(block.runs for block in blocks_of(name))]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as readers have one: photos/, photo.jpg."""
    folder = tmp_path_factory.mktemp("reader")
    write_dataset(folder / "scenes", "test", 2, seed=0)
    shutil.copytree(folder / "scenes" / "images", folder / "photos")
    from PIL import Image

    first = min((folder / "photos").iterdir())
    Image.open(first).convert("RGB").save(folder / "photo.jpg", quality=95)
    shutil.rmtree(folder / "scenes")
    return folder


@pytest.fixture
def given(photos: Path) -> dict[str, Any]:
    """What readers are taken to have: a model, its processor and inputs of a picture.

    `embedded_model` gives the folder of a model in place of a hub id.
    """
    from vlmheads import Captioner

    model, processor = load_model("embedded")
    inputs = Captioner(model, processor, ()).prepare([photos / "photo.jpg"], "Describe the image.")
    return {"model": model, "processor": processor, "inputs": inputs} | {
        "embedded_model": embedded_model
    }


@pytest.mark.parametrize("name", RUNNING)
def test_the_blocks_of_a_page_run_in_order_and_print_what_it_says(
    name: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    found = blocks_of(name)
    asked = {word for block in found for word in (block.mark("given") or "").split(", ") if word}
    has = request.getfixturevalue("given") if asked else {}
    page = Page(name, {word: has[word] for word in asked})
    printed = ""
    for block in found:
        if block.mark("file") is not None:
            Path(block.mark("file") or "").write_text(block.source, "utf-8")
        elif block.mark("output") is not None:
            assert block.source.strip() == printed.strip(), f"{name}, line {block.line}"
        elif block.runs:
            printed = page.run(block)


@pytest.mark.parametrize("name", NAMES)
def test_every_block_says_its_language_and_why_it_is_not_run(name: str) -> None:
    for block in blocks_of(name):
        place = f"{name}, line {block.line}"
        assert block.language in (*documents.RUN, *documents.SHOWN), f"{place}: {block.language!r}"
        assert block.mark("not run") != "", f"{place}: no reason"
        for mark in block.marks:
            assert mark.partition(":")[0] in MARKS or "---" in mark or mark in PLAIN, (
                f"{place}: {mark}"
            )


MARKS = ("not run", "run with", "given", "file", "output")
# Marks of tables and parts, which have another purpose.
PLAIN = ("try", "figures", "end")


def test_most_blocks_run() -> None:
    found = [
        block for name in NAMES for block in blocks_of(name) if block.language in documents.RUN
    ]
    assert sum(block.runs for block in found) > len(found) / 2


EXAMPLE = """
<!-- given: model -->
```python
x = 1
```

<!-- run with: embedded for other/model -->
```shell
vlmheads caption --model other/model
```

<!-- not run: needs a GPU -->
```python
y
```
"""


def test_marks_stand_above_their_block() -> None:
    first, second, third = documents.blocks(EXAMPLE, ROOT)
    assert (first.mark("given"), first.runs, first.line) == ("model", True, 3)
    assert second.ready == "vlmheads caption --model embedded\n"
    assert (third.mark("not run"), third.runs) == ("needs a GPU", False)


def test_a_block_that_fails_fails_its_page() -> None:
    (block,) = documents.blocks("```python\nassert 1 == 2\n```\n", ROOT)
    with pytest.raises(AssertionError):
        Page("page.md", {}).run(block)
    (block,) = documents.blocks("```shell\nvlmheads nonsense\n```\n", ROOT)
    with pytest.raises(AssertionError, match="No such command"):
        Page("page.md", {}).run(block)
