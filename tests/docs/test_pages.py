"""The pages that are made from code cover the code; the site itself is built by `make docs`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest
import torch
from mkdocs.exceptions import PluginError
from vlmheads_eval.compare.verdict import labelled
from vlmheads_testbed.coco import write_dataset

import vlmheads
from vlmheads import Captioner
from vlmheads.cli import main
from vlmheads.detect import divergence

# One process makes the pages.
pytestmark = pytest.mark.xdist_group("pages")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return importlib.import_module("hooks")


@pytest.fixture(scope="module")
def pages(hooks: ModuleType) -> dict[str, str]:
    return dict(hooks.pages())


@pytest.mark.parametrize("name", vlmheads.list_plugins())
def test_every_method_has_a_page_with_its_options_and_evidence(
    pages: dict[str, str], name: str
) -> None:
    page = pages[f"methods/{name}.md"]
    plugin = vlmheads.get_plugin(name)
    assert page.startswith(f"# {name}\n")
    for part in ("Source", "Cost", "Evidence"):
        assert f"\n## {part}\n" in page
    for field in dataclasses.fields(plugin):
        assert f"| `{field.name}` | `{field.default}` |" in page


def test_presets_stand_on_the_pages_of_their_methods(pages: dict[str, str]) -> None:
    assert "`vhr-llava15.json`" in pages["methods/vhr.md"]
    assert "`vhr-llava15.json`" not in pages["methods/pai.md"]


def test_every_public_name_is_linked_to_a_page_that_holds_its_module(
    pages: dict[str, str],
) -> None:
    assert "[`vlmheads.detect`](detect.md)" in pages["api/index.md"]
    for name in set(vlmheads.__all__) - {"detect"}:
        link = re.search(
            rf"\[`vlmheads\.{name}`\]\((\w+\.md)#([\w.]+)\.{name}\)", pages["api/index.md"]
        )
        assert link is not None, name
        assert f"::: {link[2]}\n" in pages[f"api/{link[1]}"]


def test_every_command_is_on_the_page_of_the_command_line(pages: dict[str, str]) -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        assert f"\n## vlmheads {name}\n" in pages["cli.md"]
    assert "\n### vlmheads eval predict\n" in pages["cli.md"]


def test_documents_from_outside_link_as_pages_do(hooks: ModuleType) -> None:
    text = hooks.code_pages.from_elsewhere("CONTRIBUTING.md")
    assert "](architecture.md)" in text
    assert "](changelog.md)" in text
    assert "](docs/" not in text


def test_a_page_that_would_fetch_from_elsewhere_is_refused(hooks: ModuleType) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    assert hooks.on_post_page('<a href="https://a.org">', page, None)
    with pytest.raises(PluginError, match=r"index\.md fetches from elsewhere"):
        hooks.on_post_page('<script src="https://a.org/x.js">', page, None)
    with pytest.raises(PluginError, match="fetches from elsewhere"):
        hooks.on_post_page('<link rel="stylesheet" href="https://a.org/x.css">', page, None)


def test_the_table_that_is_explained_is_the_one_that_was_measured() -> None:
    page = (ROOT / "docs" / "reading-results.md").read_text("utf-8")
    result = json.loads((ROOT / "docs" / "data" / "wrong-places.json").read_text("utf-8"))
    verdicts = {method["name"]: labelled(method) for method in result["methods"]}
    for run in result["runs"]:
        cells = [
            f"{100 * run['overall'][name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            for name in ("CHAIRs", "CHAIRi", "recall")
            for low, high in [run["intervals"][name]]
        ]
        verdict = verdicts.get(run["name"], "baseline")
        assert f"| {run['name']} | {' | '.join(cells)} |" in page
        assert re.search(rf"^\| {run['name']} \|.*\| {verdict} \|$", page, flags=re.M)


def test_the_head_map_of_the_tutorial_is_the_one_that_was_measured(tmp_path: Path) -> None:
    write_dataset(tmp_path, "counterfactual", 12, seed=0)
    captioner = Captioner.from_pretrained("embedded", ())
    pictures = sorted((tmp_path / "images").iterdir())
    measured = divergence(captioner.model, captioner.prepare(pictures, "Describe the image."))
    shown = json.loads((ROOT / "docs" / "data" / "heads.json").read_text("utf-8"))
    assert (shown["measure"], shown["images"]) == (measured.measure, measured.images)
    torch.testing.assert_close(torch.tensor(shown["values"]), measured.mean(), atol=2e-3, rtol=0)


def test_a_head_map_is_drawn_with_its_unit(hooks: ModuleType) -> None:
    drawn = hooks.FIGURE.sub(hooks._figure, "<!-- figure: heads.json -->")
    assert "length of the difference in head outputs" in drawn


def test_a_figure_of_a_comparison_takes_the_colours_of_the_page(hooks: ModuleType) -> None:
    mark = "<!-- figure: wrong-places.json CHAIRs CHAIR_S -->"
    drawn = hooks.FIGURE.sub(hooks._figure, mark)
    assert "random-heads-1" in drawn
    assert "var(--figure-category-1" in drawn
    assert "--figure-category-1" in hooks.figure_colours()
