"""Files of records, one JSON object a line, that outlive whoever writes them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vlmheads.errors import VlmHeadsError


@contextmanager
def only_writer(path: Path, refusal: VlmHeadsError | None = None) -> Iterator[None]:
    """Hold a lock on a path while writing; it is released if the process dies.

    Args:
        path: the file of the lock; it is made.
        refusal: what is raised where another process holds it.

    Raises:
        VlmHeadsError: another process holds it.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise refusal or VlmHeadsError(
                f"another process writes to {path.parent}",
                "one writer per run",
                "wait for it, or choose another --out",
            ) from error
        yield


def append(file: IO[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as lines and flush them to disk."""
    for record in records:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())


def repair(path: Path) -> None:
    """Repair the last line after a killed process: end it if it is complete, else remove it."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = _last_line(file, size)
        file.seek(start)
        last = file.read()
        if not last:
            return
        try:
            complete = isinstance(json.loads(last.decode("utf-8")), dict)
        except ValueError:
            complete = False
        if complete:
            file.write(b"\n")
        else:
            file.truncate(start)


def _last_line(file: IO[bytes], size: int) -> int:
    """Return where the last line starts: after the last line end."""
    end, piece = size, 1 << 16
    while end:
        start = max(0, end - piece)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each record of a file with the byte at which its line starts; blank lines are skipped.

    Raises:
        VlmHeadsError: a line that is no JSON object, with its number.
    """
    if not path.is_file():
        return
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    raise VlmHeadsError(f"{path}:{number} is not a record", "a JSON object a line")
                yield place, record
            place += len(line)


def read_at(path: Path, start: int) -> dict[str, Any]:
    """Return the record whose line starts at a byte of a file."""
    with path.open("rb") as file:
        file.seek(start)
        return dict(json.loads(file.readline()))


def finite(value: Any) -> Any:
    """Return a record as JSON has it: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def refuse_other_settings(
    place: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], todo: str
) -> None:
    """Refuse to go on with other settings than a run was started with.

    Args:
        place: what the message calls the run.
        found: the settings that it was started with.
        wanted: those of now.
        todo: the next thing for the reader to do.

    Raises:
        VlmHeadsError: with every field that differs.
    """
    wanted = json.loads(json.dumps(wanted))
    differing = [
        f"{name} {_short(found.get(name))} -> {_short(wanted.get(name))}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise VlmHeadsError(
            f"{place} was started with another config: {'; '.join(differing)}",
            "the same config",
            todo,
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
