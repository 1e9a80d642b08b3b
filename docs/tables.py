"""Write the tables that come from code into the documents.

python docs/tables.py            write them
python docs/tables.py --check    say which documents are stale
python docs/tables.py --sweep REPORT    first make coverage.json from a report of tests/families
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path

from click.testing import CliRunner

from vlmheads.cli import main
from vlmheads.model.coverage import FILE, PARTLY, REFUSED, TESTED, Coverage, condensed
from vlmheads.model.families import families

ROOT = Path(__file__).parents[1]
TABLES = {
    "plugins": ("plugin", "what it does", "paper", "hooks", "cost"),
    "presets": ("preset", "plugins", "family", "source"),
    "families": (
        *("family", "`model_type`", "state", "variants tested"),
        *("real checkpoints", "what differs"),
    ),
}
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "docs" / "methods.md",
    ROOT / "docs" / "families.md",
)


def filled(text: str) -> str:
    """Return a document with every table between its marks made anew."""
    for command, columns in TABLES.items():
        head = f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}\n"
        rows = CliRunner().invoke(main, [command, "--markdown"]).stdout
        text = _between(text, command, head + rows)
    text = _between(text, "family names", family_names())
    return _between(text, "try", trial()) if "<!-- try -->" in text else text


@cache
def trial() -> str:
    """Return what `make try` prints, as a block."""
    said = CliRunner().invoke(main, ["testbed", "try"], catch_exceptions=False).stdout
    return f"```text\n{said}```\n"


def family_names() -> str:
    """Return the families by state, in a few lines."""
    coverage = Coverage.load()
    lines = [f"On transformers {coverage.transformers}, tiny random models of every family:", ""]
    for state in (TESTED, PARTLY, REFUSED):
        found = [family for family in families() if coverage.of(family)[0] == state]
        lines.append(f"* **{state}** ({len(found)}): {'; '.join(f.name for f in found)}")
    real = [f"{f.name} ({', '.join(f.checkpoints)})" for f in families() if f.checkpoints]
    lines.append(f"* trained checkpoints that passed `vlmheads verify`: {'; '.join(real)}")
    return "\n".join(lines) + "\n"


def _between(text: str, mark: str, body: str) -> str:
    marks = rf"(<!-- {mark} -->\n).*?(<!-- end -->)"
    return re.sub(marks, lambda match: match[1] + body + match[2], text, flags=re.S)


def write_coverage(report: Path) -> None:
    """Make coverage.json from what `python tests/families/report.py --out REPORT` wrote."""
    found = json.loads(report.read_text("utf-8"))
    made = found["versions"] | {"entries": condensed(found["entries"])}
    FILE.write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if "--sweep" in sys.argv:
        write_coverage(Path(sys.argv[sys.argv.index("--sweep") + 1]))
    stale = [path for path in DOCUMENTS if filled(path.read_text()) != path.read_text()]
    if "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(map(str, stale))}; run `make fix`" if stale else 0)
    for path in stale:
        path.write_text(filled(path.read_text()))
