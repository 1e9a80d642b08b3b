"""The executed notebooks as pages of the site; mkdocs calls `on_...`.

A page is notebooks/NAME.md: cells of Markdown as they are, code as code, and beneath it what the
notebook kept of its output. The notebook itself stays beside it, to download.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FOLDER = Path(__file__).parent / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every notebook."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=as_markdown(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Send links to a notebook, which a repository's page shows, to its page here."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown
    return re.sub(r"\]\((notebooks/[\w-]+)\.ipynb\)", r"](\1.md)", markdown)


def as_markdown(path: Path) -> str:
    """Return a notebook as Markdown."""
    first, *others = json.loads(path.read_text("utf-8"))["cells"]
    download = f"An executed notebook; [download it]({path.name})."
    parts = [first["source"], download]
    for cell in others:
        parts += _cell(cell)
    return "\n\n".join(parts) + "\n"


def _cell(cell: Mapping[str, Any]) -> list[str]:
    if cell["cell_type"] == "markdown":
        return [cell["source"]]
    outputs = (_output(output) for output in cell["outputs"])
    return [f"```python\n{cell['source']}\n```", *outputs]


def _output(output: Mapping[str, Any]) -> str:
    """Return what a cell gave in its richest form: HTML, then a picture, then text."""
    data = output.get("data", {})
    if "text/html" in data:
        # A blank line would end the block.
        html = "\n".join(line for line in data["text/html"].splitlines() if line.strip())
        return f'<div class="output">\n{html}\n</div>'
    if "image/png" in data:
        return f'<img alt="The picture" src="data:image/png;base64,{data["image/png"].strip()}">'
    text = output.get("text") or data["text/plain"]
    return f"```text\n{text.rstrip()}\n```"
