"""What a job remembers: its settings, what is captioned, and what failed."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from vlmheads.errors import VlmHeadsError
from vlmheads.jobs.inputs import Item
from vlmheads.jobs.lines import (
    append,
    only_writer,
    read_lines,
    refuse_other_settings,
    repair,
)
from vlmheads.jobs.outputs import Output
from vlmheads.jobs.processes import Processes
from vlmheads.output import replace, replacing

SCHEMA = 1
SETTINGS, LOCK = "settings.json", "lock"


class Done(NamedTuple):
    """One line of captions: which file it is of, and the byte at which the line starts."""

    size: int
    modified: int | None
    checksum: str
    start: int


def held(output: Output) -> AbstractContextManager[None]:
    """Hold a job's output, which nobody else writes to meanwhile.

    Raises:
        VlmHeadsError: another job does.
    """
    refusal = VlmHeadsError(
        f"another job writes to {output.place}",
        "one job per output",
        "wait for it, or choose another --out",
    )
    return only_writer(output.state / LOCK, refusal)


def settings_of(output: Output) -> dict[str, Any]:
    """Return what is kept of a job's settings; {} for a new one.

    Raises:
        VlmHeadsError: a file that cannot be read, or captions without one.
    """
    path = output.state / SETTINGS
    if not path.is_file():
        if output.lines.is_file() and output.lines.stat().st_size:
            raise VlmHeadsError(
                f"{output.lines} holds lines, and {path}, which says how they were made, is not "
                "there",
                "both or none",
                "choose another --out, or pass --overwrite to replace it",
            )
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise VlmHeadsError(f"{path} cannot be read ({error})", "what a job left there") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise VlmHeadsError(f"{path} is of another version of vlmheads", f"schema {SCHEMA}")
    return found


def refuse_others(output: Output, settings: Mapping[str, Any], *, whole: bool = True) -> None:
    """Refuse to add captions of other settings to those that there are.

    Args:
        output: where they are.
        settings: everything that determines a caption.
        whole: False for settings that are only some of them.

    Raises:
        VlmHeadsError: with what differs.
    """
    found = settings_of(output)
    there = output.lines.is_file() and output.lines.stat().st_size
    if not found or not (there or parts(output)):
        return
    kept = found["settings"]
    refuse_other_settings(
        output.place,
        kept if whole else {name: kept.get(name) for name in settings},
        settings,
        "go on with the old ones, choose another --out, or pass --overwrite to start anew",
    )


def begin(output: Output, settings: Mapping[str, Any], root: Path, *, overwrite: bool) -> None:
    """Start a job, or go on with one.

    Args:
        output: where it writes; it has to be held.
        settings: everything that determines a caption.
        root: what names are relative to.
        overwrite: whether to drop what there is.

    Raises:
        VlmHeadsError: captions of other settings.
    """
    if overwrite:
        forget(output)
    refuse_others(output, settings)
    repair(output.lines)
    replaces = overwrite or bool(settings_of(output).get("replaces"))
    _keep(output, settings, root, replaces)


def finish(output: Output, settings: Mapping[str, Any], root: Path) -> None:
    """Note that a job is complete."""
    _keep(output, settings, root, replaces=False)


def _keep(output: Output, settings: Mapping[str, Any], root: Path, replaces: bool) -> None:
    kept = {
        "schema": SCHEMA,
        "root": os.path.relpath(root, output.state.parent),
        # whether text files from elsewhere are replaced: until a job with --overwrite is complete
        "replaces": replaces,
        "settings": dict(settings),
    }
    text = json.dumps(kept, indent=1) + "\n"
    path = output.state / SETTINGS
    if not path.is_file() or path.read_text("utf-8") != text:
        replace(path, text)


def root_of(output: Output, base: Path) -> Path:
    """Return what names are relative to: what the job began with, or for a new one `base`."""
    kept = settings_of(output).get("root") if (output.state / SETTINGS).is_file() else None
    return base if kept is None else Path(os.path.normpath(output.state.parent / kept))


def forget(output: Output) -> None:
    """Drop a job's captions, settings and failures; files of samples and texts stay for now."""
    for path in (output.lines, output.state / SETTINGS, output.failed, *parts(output)):
        path.unlink(missing_ok=True)


def parts(output: Output) -> list[Path]:
    """Return the files to which several processes write, until they are merged."""
    return sorted(output.state.glob("*.rank*.jsonl"))


def files_of(output: Output, processes: Processes) -> tuple[Path, Path]:
    """Return the files to which a process writes captions and failures."""
    if processes.num_processes == 1:
        return output.lines, output.failed
    rank = processes.process_index
    return (
        output.state / f"captions.rank{rank}.jsonl",
        output.state / f"failed.rank{rank}.jsonl",
    )


def captioned(output: Output) -> dict[str, Done]:
    """Return the last line of each image that has a caption."""
    found = {}
    for start, record in read_lines(output.lines):
        key, source = record.get("file_name"), record.get("source")
        if not isinstance(key, str) or not isinstance(source, dict):
            raise VlmHeadsError(
                f"{output.lines} has a line of something else at byte {start}",
                "lines that `vlmheads caption` wrote",
            )
        found[key] = Done(source["bytes"], source["modified"], source["crc32"], start)
    return found


def failures(output: Output) -> dict[str, dict[str, Any]]:
    """Return the last record of each image that failed."""
    repair(output.failed)
    return {record["file_name"]: record for _, record in read_lines(output.failed)}


def unchanged(item: Item, size: int, modified: int | None, checksum: str | None) -> bool:
    """Whether an image is still the one that a line was written for.

    A file of the same size that was touched or copied is told by its checksum.
    """
    if item.path is None:
        content = item.content or b""
        return len(content) == size and f"{zlib.crc32(content):08x}" == checksum
    try:
        found = item.path.stat()
        if found.st_size != size or found.st_mtime_ns == modified:
            return found.st_size == size
        return f"{zlib.crc32(item.path.read_bytes()):08x}" == checksum
    except OSError:
        return False


def merge(output: Output) -> list[dict[str, Any]]:
    """Move the lines of several processes, of this job or an earlier one, into one file.

    A file of one process is deleted only after its lines are on disk.

    Returns:
        The records that were added, captions and failures.
    """
    added: list[dict[str, Any]] = []
    if not parts(output):
        return added
    there = captioned(output)
    for path in parts(output):
        kept = path.name.startswith("captions.")
        target = output.lines if kept else output.failed
        with only_writer(path):
            repair(path)
            repair(target)
            fresh = []
            for _, record in read_lines(path):
                old = there.get(record["file_name"]) if kept else None
                if old is None or old.checksum != record["source"]["crc32"]:
                    fresh.append(record)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a", encoding="utf-8") as file:
                append(file, fresh)
            added += fresh
            path.unlink()
    return added


def put_in_order(output: Output, keys: Sequence[str]) -> None:
    """Sort the lines of captions by the order of their images, one line each.

    Lines of images that the job was not asked about come first, in their order.
    """
    found = captioned(output)
    asked = set(keys)
    wanted = [key for key in found if key not in asked] + [key for key in keys if key in found]
    starts = [found[key].start for key in wanted]
    if not starts:
        return
    with output.lines.open("rb") as old:
        number = sum(1 for _ in old)
        if number == len(starts) and starts == sorted(starts):
            return
        with replacing(output.lines) as place, place.open("wb") as new:
            for start in starts:
                old.seek(start)
                new.write(old.readline())


def settle_failures(output: Output, up_to_date: AbstractSet[str]) -> dict[str, dict[str, Any]]:
    """Leave in the file of failures those that still stand, one line each, and return them.

    One stands until its image gets a caption that it did not have before, or is again what it was.

    Args:
        output: of the job.
        up_to_date: images that need none, being again what their caption was written for.
    """
    found = failures(output)
    done = captioned(output) if found else {}
    standing = {
        key: record
        for key, record in found.items()
        if key not in up_to_date
        and (done[key].checksum if key in done else None) == record.get("previous")
    }
    if standing:
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in standing.values())
        replace(output.failed, "".join(lines))
    else:
        output.failed.unlink(missing_ok=True)
    return standing
