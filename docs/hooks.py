"""What mkdocs calls while it builds the site; the pages themselves are made by plain functions.

Nothing here is written into docs/, so that nothing has to be committed twice: docs/method_pages.py
makes the pages of methods, docs/code_pages.py those of the reference, and figures.css has the
colours of vlmheads/plotting/palette.py, in which figures are drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import code_pages
from linking import inside, outside_links
from method_pages import gallery, method_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from vlmheads.plotting.palette import DARK, LIGHT, variables
from vlmheads.registry import list_plugins

ROOT = Path(__file__).parents[1]
GALLERY = "<!-- sites -->"
FIGURE = re.compile(r"^<!-- figure: (?P<file>\S+)(?: (?P<name>\S+) (?P<title>\S+))? -->$", re.M)
EXTERNAL = re.compile(
    r"""<(?:script|img|iframe|source|link(?=[^>]*stylesheet))[^>]*(?:src|href)=["']?https?:[^>]*>"""
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from code, and those that live outside of docs/."""
    for path, text in (*pages(), ("figures.css", figure_colours())):
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the entries of the navigation that stand for generated pages."""
    made = [path for path, _ in pages() if "/" in path and not path.endswith("index.md")]
    config.nav = [_filled(entry, made) for entry in config.nav or []]
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the figures, and give links the form that they have inside of the site."""
    markdown = FIGURE.sub(_figure, inside(markdown))
    if page.file.src_uri != "methods.md":
        return markdown
    names = "|".join(list_plugins())
    markdown = re.sub(rf"^\| `({names})` \|", r"| [`\1`](methods/\1.md) |", markdown, flags=re.M)
    return outside_links(markdown.replace(GALLERY, gallery()))


def _figure(match: re.Match[str]) -> str:
    """Draw a file of docs/data: a head map, or the truncation frontier of a comparison."""
    found = json.loads((ROOT / "docs" / "data" / match["file"]).read_text("utf-8"))
    if match["name"] is None:
        return f'<figure class="small">{_head_map(found)}</figure>'
    from vlmheads_eval.report.figures import frontier_plot

    return f"<figure>{frontier_plot(found, match['name'], match['title'])}</figure>"


def _head_map(found: Mapping[str, Any]) -> str:
    """Draw a head map with its four largest values outlined."""
    import torch

    from vlmheads.headmap import HeadMap
    from vlmheads.model.geometry import Geometry
    from vlmheads.plotting.drawing import as_svg
    from vlmheads.plotting.maps import plot_head_map

    values = torch.tensor(found["values"])
    head_map = HeadMap(values[None], Geometry("", *values.shape), found["measure"])
    figure = plot_head_map(head_map, chosen=[(layer, head) for layer, head, _ in head_map.top(4)])
    figure.axes[0].set_title(f"mean of {found['images']} images", loc="left")
    return as_svg(figure, f"{found['measure']} of every head, layers against heads")


@cache
def pages() -> tuple[tuple[str, str], ...]:
    """Return the path and the Markdown of every generated page."""
    methods = ((f"methods/{name}.md", method_page(name)) for name in list_plugins())
    return (*methods, *code_pages.pages())


def figure_colours() -> str:
    """Return the style sheet that gives figures the colours of the page's theme."""
    return (
        f'[data-md-color-scheme="default"]{{{variables(LIGHT)}}}\n'
        f'[data-md-color-scheme="slate"]{{{variables(DARK)}}}\n'
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would fetch anything from elsewhere."""
    found = EXTERNAL.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} fetches from elsewhere: {found[0]}")
    return output


def _filled(entry: Any, made: list[str]) -> Any:
    """Replace "folder/*" in a part of the navigation by the pages made in that folder."""
    if isinstance(entry, dict):
        return {title: _filled(part, made) for title, part in entry.items()}
    if not isinstance(entry, list):
        return entry
    parts: list[Any] = []
    for part in entry:
        if isinstance(part, str) and part.endswith("/*"):
            parts += [path for path in made if path.startswith(part[:-1])]
        else:
            parts.append(_filled(part, made))
    return parts
