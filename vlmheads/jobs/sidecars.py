"""Text files, one an image: beside it, or in a folder of the same structure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.jobs import lines
from vlmheads.jobs.inputs import Item
from vlmheads.jobs.outputs import Output
from vlmheads.jobs.resume import Done
from vlmheads.output import replace as replace_file


def without_clashes(items: Sequence[Item], output: Output) -> list[Item]:
    """Return images with a problem in place of each whose text file would be another's, too."""
    owners: dict[Path, list[str]] = {}
    for item in items:
        owners.setdefault(output.sidecar(item.key), []).append(item.key)
    checked = []
    for item in items:
        path = output.sidecar(item.key)
        others = [key for key in owners[path] if key != item.key]
        if others and item.problem is None:
            problem = VlmHeadsError(
                f"{item.key} and {others[0]} would share the text file {path.name}",
                "names that differ before the suffix",
                "rename one, or choose --format metadata",
            )
            item = replace(item, problem=problem)
        checked.append(item)
    return checked


def is_there(
    output: Output, item: Item, done: Done | None, unchanged: bool, replaces: bool
) -> bool:
    """Whether an image has a text file that is kept.

    One that a killed job did not come to write is written. One that somebody else wrote or edited
    is kept, unless the job replaces such files.

    Args:
        output: where captions go.
        item: the image.
        done: its line among the captions, if any.
        unchanged: whether it is still the image of that line.
        replaces: whether text files from elsewhere are replaced.
    """
    path = output.sidecar(item.key)
    text = _read(path)
    if done is None:
        return bool(text) and not replaces and item.problem is None
    said = _text(lines.read_at(output.lines, done.start))
    if unchanged and not text:
        _write(path, said)
    return unchanged or (bool(text) and text != said)


def clear(output: Output, records: Iterable[Mapping[str, Any]]) -> None:
    """Remove the text files that new lines of captions are about to replace.

    A job that is killed between the two is then known by the missing file.
    """
    for record in records:
        output.sidecar(record["file_name"]).unlink(missing_ok=True)


def write(output: Output, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the text files of new lines of captions."""
    for record in records:
        _write(output.sidecar(record["file_name"]), _text(record))


def _text(record: Mapping[str, Any]) -> str:
    """Return a caption as one line, without unsupported clauses where they were left out."""
    return " ".join(str(record.get("text_safer") or record["text"]).split())


def _write(path: Path, text: str) -> None:
    replace_file(path, text + "\n")


def _read(path: Path) -> str:
    """Return the text of a text file; "" where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""
