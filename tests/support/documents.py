"""The code blocks of a Markdown document, and running them in order."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from vlmheads.cli import main

# A fence at the beginning of a line, and the comments that stand directly above it.
FENCE = re.compile(
    r"(?P<marks>(?:^<!--[^\n]*-->\n+)*)^```(?P<language>[^\n]*)\n(?P<source>.*?)^```$", re.M | re.S
)
# In the form of three lines, which no formatter takes for Python.
SNIPPET = re.compile(r"^--8<--\n(?P<path>.+)\n--8<--$", re.M)
RUN = ("python", "shell")
SHOWN = ("text", "toml", "json", "jsonl", "yaml", "html", "markdown")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Marks, as HTML comments above it: `not run: REASON`; `run with: NEW for OLD` puts one name in
    place of another; `given: NAMES` are names that the reader is taken to have; `file: NAME` saves
    the block under a name; `output` above a text block says that the block before it prints that.
    """

    line: int
    language: str
    source: str
    marks: tuple[str, ...]

    def mark(self, name: str) -> str | None:
        for mark in self.marks:
            head, _, rest = mark.partition(":")
            if head == name:
                return rest.strip()
        return None

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.mark("not run") is None

    @property
    def ready(self) -> str:
        """The source with stand-ins for what is not at hand."""
        source = self.source
        stand_in = self.mark("run with")
        if stand_in is not None:
            new, _, old = stand_in.partition(" for ")
            assert old in source, f"line {self.line}: {old!r} is not in the block"
            source = source.replace(old, new)
        return source


def blocks(text: str, root: Path) -> list[Block]:
    """Return the fenced blocks of a document, with the files that they include."""

    def included(match: re.Match[str]) -> str:
        return (root / match["path"]).read_text("utf-8").rstrip("\n")

    found = []
    for match in FENCE.finditer(text):
        marks = tuple(re.findall(r"<!-- *(.*?) *-->", match["marks"]))
        line = text[: match.start("language")].count("\n") + 1
        language, source = match["language"].split(" ")[0], SNIPPET.sub(included, match["source"])
        found.append(Block(line, language, source, marks))
    return found


class Page:
    """Runs the blocks of one document, in one namespace and one folder."""

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        self.module = types.ModuleType(re.sub(r"\W", "_", name))
        self.module.__dict__.update(given)
        self.name = name

    def run(self, block: Block) -> str:
        """Run a block and return what it printed."""
        if block.language == "shell":
            return self._shell(block)
        printed = io.StringIO()
        # Lines as in the document, so that a traceback names the place.
        code = compile("\n" * block.line + block.ready, self.name, "exec")
        sys.modules[self.module.__name__] = self.module  # dataclasses look their module up
        try:
            with redirect_stdout(printed):
                exec(code, self.module.__dict__)
        finally:
            del sys.modules[self.module.__name__]
        return printed.getvalue()

    def _shell(self, block: Block) -> str:
        """Run the commands of a block; `vlmheads` in this process, which is faster."""
        printed = []
        for command in block.ready.replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            if words and words[0] == "vlmheads":
                result = CliRunner().invoke(main, words[1:])
                assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
                printed.append(result.stdout)
            elif words:
                done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                printed.append(done.stdout)
        return "".join(printed)
