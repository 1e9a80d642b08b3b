"""Write the tables that come from code into the documents: python docs/tables.py [--check]."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from click.testing import CliRunner

from vlmheads.cli import main

ROOT = Path(__file__).parents[1]
TABLES = {
    "plugins": ("plugin", "what it does", "paper", "hooks", "cost"),
    "presets": ("preset", "plugins", "family", "source"),
    "families": ("family", "`model_type`", "state", "note"),
}
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "methods.md")


def filled(text: str) -> str:
    """Return a document with every table between its marks made anew."""
    for command, columns in TABLES.items():
        head = f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}\n"
        rows = CliRunner().invoke(main, [command, "--markdown"]).stdout
        marks = rf"(<!-- {command} -->\n).*?(<!-- end -->)"
        text = re.sub(marks, lambda m, body=head + rows: m[1] + body + m[2], text, flags=re.S)
    return text


if __name__ == "__main__":
    stale = [path for path in DOCUMENTS if filled(path.read_text()) != path.read_text()]
    if "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(map(str, stale))}; run `make fix`" if stale else 0)
    for path in stale:
        path.write_text(filled(path.read_text()))
