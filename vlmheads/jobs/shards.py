"""Files of samples, image and caption together: parquet parts and webdataset tars.

They are made of a finished job's lines, so that captions are never lost with a file that is not
complete. A file that holds what it should is left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.images import image_suffixes
from vlmheads.jobs.archives import require
from vlmheads.jobs.batches import source_of
from vlmheads.jobs.inputs import Found, Item, items
from vlmheads.jobs.lines import read_at
from vlmheads.jobs.outputs import PARQUET, Output
from vlmheads.jobs.resume import Done, captioned
from vlmheads.output import replace, replacing

# What a file holds at most: images, and bytes of images.
MOST_IMAGES, MOST_BYTES = 10_000, 500_000_000
ROW_GROUP = 128_000_000
MADE = "files.json"


@dataclass(frozen=True)
class Shard:
    """One file to be: its name, what it holds, and a digest of that."""

    name: str
    keys: tuple[str, ...]
    digest: str


def pack(output: Output, found: Found, root: Path, keys: Sequence[str], column: str | None) -> int:
    """Write the files of samples that are missing or out of date, and delete what is superfluous.

    Args:
        output: of a job that is complete.
        found: the images.
        root: what names are relative to.
        keys: of the images, in order.
        column: the column of images in parquet files.

    Returns:
        How many images were changed since they were captioned, which are left out.

    Raises:
        VlmHeadsError: captioned images that are nowhere to be read.
    """
    done = captioned(output)
    older = _older(root, set(keys), done)
    keys = [*(item.key for item in older), *keys]
    shards = _plan(output, keys, done)
    names = dict(zip((key for shard in shards for key in shard.keys), _names(shards), strict=True))
    state = output.state / MADE
    made: dict[str, str] = {}
    with suppress(FileNotFoundError, ValueError):
        made = json.loads(state.read_text("utf-8"))
    for name in set(made) - {shard.name for shard in shards}:
        (output.place / name).unlink(missing_ok=True)
    todo = [
        shard
        for shard in shards
        if made.get(shard.name) != shard.digest or not (output.place / shard.name).is_file()
    ]
    changed = 0
    source = chain(older, items(found, root, column=column))
    for shard in todo:
        samples = _samples(output, source, shard, done)
        changed += _write(output, shard, samples, names)
        made[shard.name] = shard.digest
        made = {one.name: made[one.name] for one in shards if one.name in made}
        replace(state, json.dumps(made, indent=1) + "\n")
    if made and not shards:
        replace(state, "{}\n")
    return changed


def _older(root: Path, asked: set[str], done: Mapping[str, Done]) -> list[Item]:
    """Return the captioned images that a job was not asked about this time, and that are there.

    Raises:
        VlmHeadsError: some are in archives, which have to be named.
    """
    others = [key for key in done if key not in asked]
    inside = [key for key in others if done[key].modified is None]
    if inside:
        raise VlmHeadsError(
            f"{len(inside)} captioned images are in archives that were not named, such as "
            f"{inside[0]}",
            "all images of the output, since its files are made of them",
            "name those archives, too; all captions are kept",
        )
    return [Item(key, root / key) for key in others if (root / key).is_file()]


def _plan(output: Output, keys: Sequence[str], done: Mapping[str, Done]) -> list[Shard]:
    """Divide the captioned images into files, in order."""
    groups: list[list[str]] = []
    held = MOST_BYTES
    for key in keys:
        if key not in done:
            continue
        if held + done[key].size > MOST_BYTES or len(groups[-1]) == MOST_IMAGES:
            groups.append([])
            held = 0
        groups[-1].append(key)
        held += done[key].size
    shards: list[Shard] = []
    if not groups:
        return shards
    with output.lines.open("rb") as file:
        for index, group in enumerate(groups):
            digest = hashlib.sha256(output.format.encode())
            for key in group:
                file.seek(done[key].start)
                digest.update(file.readline())
            pattern = "part-{:05d}.parquet" if output.format == PARQUET else "captions-{:06d}.tar"
            shards.append(Shard(pattern.format(index), tuple(group), digest.hexdigest()))
    return shards


def _names(shards: Sequence[Shard]) -> Iterator[str]:
    """Yield the key of each sample in a tar: its path without suffix and without dots, once."""
    taken: set[str] = set()
    for key in (key for shard in shards for key in shard.keys):
        name = PurePosixPath(key).with_suffix("").as_posix().replace(".", "_")
        number, once = 1, name
        while once in taken:
            number += 1
            once = f"{name}_{number}"
        taken.add(once)
        yield once


def _samples(
    output: Output, source: Iterator[Item], shard: Shard, done: Mapping[str, Done]
) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    """Yield the record and the bytes of each image of a file; None for one that has changed."""
    wanted = set(shard.keys)
    while wanted and (item := next(source, None)) is not None:
        if item.key not in wanted:
            continue
        wanted.discard(item.key)
        content = None
        with suppress(OSError, VlmHeadsError):
            content = item.read()
        if content is not None and source_of(item, content)["crc32"] != done[item.key].checksum:
            content = None
        yield read_at(output.lines, done[item.key].start), content


def _write(
    output: Output,
    shard: Shard,
    samples: Iterator[tuple[dict[str, Any], bytes | None]],
    names: dict[str, str],
) -> int:
    """Write one file, and return how many of its images have changed."""
    path = output.place / shard.name
    changed = 0
    with replacing(path) as place:
        writer = _parquet(place) if output.format == PARQUET else _tar(place)
        next(writer)
        with closing(writer):
            for record, content in samples:
                if content is None:
                    changed += 1
                    continue
                record.pop("source")
                writer.send((names[record["file_name"]], record, content))
            with suppress(StopIteration):
                writer.send(None)
    return changed


def _tar(path: Path) -> Any:
    """Write samples to a tar as they are sent, with nothing in it that depends on the time."""
    webdataset = require("webdataset", f"writing {path}")
    with path.open("wb") as file, webdataset.TarWriter(file, mtime=0, compress=False) as tar:
        while (sample := (yield)) is not None:
            name, record, content = sample
            tar.write(
                {
                    "__key__": name,
                    _extension(record["file_name"], content): content,
                    "txt": record["text"],
                    "json": record,
                }
            )


def _extension(key: str, content: bytes) -> str:
    """Return the suffix of an image without its dot; by what it is where its name has none."""
    suffix = PurePosixPath(key).suffix.lower()
    if suffix in image_suffixes():
        return suffix[1:]
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(content)) as image:
        kind = (image.format or "jpeg").lower()
    return {"jpeg": "jpg", "jpeg2000": "jp2", "mpo": "jpg"}.get(kind, kind)


def _parquet(path: Path) -> Any:
    """Write samples to a parquet file as they are sent, as `datasets` would."""
    datasets = require("datasets", f"writing {path}")
    arrow = require("pyarrow", f"writing {path}")
    parquet = require("pyarrow.parquet", f"writing {path}")
    writer = None
    rows: list[dict[str, Any]] = []
    held = 0

    def flush() -> None:
        nonlocal writer, rows, held
        schema = _features(datasets, rows[0]).arrow_schema
        if writer is None:
            writer = parquet.ParquetWriter(path, schema)
        writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
        rows, held = [], 0

    try:
        while (sample := (yield)) is not None:
            _, record, content = sample
            image = {"bytes": content, "path": PurePosixPath(record["file_name"]).name}
            rows.append({"image": image, **record})
            held += len(content)
            if held > ROW_GROUP:
                flush()
        if rows:
            flush()
    finally:
        if writer is not None:
            writer.close()


def _features(datasets: Any, row: dict[str, Any]) -> Any:
    """Return the columns of a row as `datasets` names them."""
    kinds = {str: "string", int: "int64", bool: "bool", float: "float64"}

    def kind(name: str, value: Any) -> Any:
        if name == "image":
            return datasets.Image()
        if name == "words":
            parts = WORD_COLUMNS.items()
            return datasets.List({part: datasets.Value(type_) for part, type_ in parts})
        if isinstance(value, list):
            return datasets.List(datasets.Value("string"))
        return datasets.Value(kinds.get(type(value), "float64"))

    return datasets.Features({name: kind(name, value) for name, value in row.items()})


# What a record says of each word of its caption.
WORD_COLUMNS = {
    "text": "string",
    "object": "string",
    "start": "int64",
    "end": "int64",
    "score": "float64",
    "flagged": "bool",
}
