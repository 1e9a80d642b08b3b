"""The pages that are made of notebooks, and the picture of the first page."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image, ImageChops
from vlmheads_testbed.scenes import scene

from vlmheads import Captioner

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def site() -> ModuleType:
    return importlib.import_module("notebook_pages")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_page_has_its_cells_and_what_they_gave(site: ModuleType, path: Path) -> None:
    page = site.as_markdown(path)
    cells = json.loads(path.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert page.startswith(cells[0]["source"])
    assert f"]({path.name})" in page
    for cell in cells:
        assert cell["source"] in page
    assert page.count('<div class="output">') == sum(
        "text/html" in o.get("data", ()) for o in outputs
    )
    assert page.count("data:image/png") == sum("image/png" in o.get("data", ()) for o in outputs)
    assert page.count("```text") == sum(o["output_type"] == "stream" for o in outputs)


def test_links_to_a_notebook_lead_to_its_page(site: ModuleType) -> None:
    def read(uri: str, text: str) -> str:
        page = SimpleNamespace(file=SimpleNamespace(src_uri=uri))
        changed: str = site.on_page_markdown(text, page, None, None)
        return changed

    assert read("demo.md", "[a](notebooks/quick-start.ipynb)") == "[a](notebooks/quick-start.md)"
    link = "[download it](quick-start.ipynb)"
    assert read("notebooks/quick-start.md", link) == link


def test_every_notebook_is_in_the_navigation() -> None:
    navigation = (DOCS.parent / "mkdocs.yml").read_text("utf-8")
    for path in NOTEBOOKS:
        assert f"notebooks/{path.stem}.md\n" in navigation


def test_the_first_page_shows_what_the_model_says_of_its_picture() -> None:
    example = scene("counterfactual", 0, 47)
    shown = Image.open(DOCS / "images" / "scene.png").convert("RGB")
    assert ImageChops.difference(shown, example.image).getbbox() is None
    captioner = Captioner.from_pretrained("embedded", ())
    page = (DOCS / "index.md").read_text("utf-8")
    captions = [re.sub("<.*?>", "", text) for text in re.findall("<dd>(.*)</dd>", page)]
    said = [captioner([example.image], plugins=asked)[0].text for asked in ((), "vcd:alpha=0.25")]
    assert captions == said
    marked = set(re.findall("<mark>(.*?)</mark>", page))
    assert marked == {"suitcase", "airplane"}
    assert not marked & example.names
