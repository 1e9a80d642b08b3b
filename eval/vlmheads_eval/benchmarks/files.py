"""Tables as benchmarks are published: Parquet, TSV, CSV, JSON and JSON Lines, images included."""

import base64
import binascii
import csv
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from vlmheads.errors import VlmHeadsError, install_hint
from vlmheads_eval.benchmarks.record import Source
from vlmheads_eval.records import file_sha256, inside, read_records

SUFFIXES = (".parquet", ".tsv", ".csv", ".jsonl", ".json")
LONGEST_FIELD = 1 << 28  # Bytes of one cell of a TSV file, which may hold a whole picture.
REFERENCE = 64  # In VLMEvalKit's tables a shorter image is the index of the row that has it.
MANY = 12  # Files of which each has its own digest in a result.
MAGIC = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif"}


class Picture(NamedTuple):
    """An image of a table: its file, where it has one, and what tells it from others."""

    file: Path | None
    identity: str


def digests(files: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its path; of many, one over all of their digests."""
    found = {str(path): file_sha256(path) for path in files}
    if len(found) <= MANY:
        return found
    lines = "".join(f"{digest}  {Path(name).name}\n" for name, digest in found.items())
    return {f"{len(found)} files": hashlib.sha256(lines.encode()).hexdigest()}


class Row(NamedTuple):
    """One row of a table, and where it stands for messages."""

    place: str
    values: dict[str, Any]

    def text(self, *names: str) -> str:
        """Return the first of the fields that is there as text, or refuse the row."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool):
                return str(value)
        raise VlmHeadsError(f"{self.place}: no {' or '.join(names)}", "a string or a number")


def table_files(path: Path) -> tuple[Path, ...]:
    """Return the files of a table: the file itself, or those of the first kind in a folder.

    In a hub cache's folder of a data set, the snapshot that its main branch points to.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise VlmHeadsError(f"{path}", f"a file that ends in {' or '.join(SUFFIXES)}")
        return (path,)
    if not path.is_dir():
        raise VlmHeadsError(f"no file or folder {path}")
    folder = snapshot(path)
    for suffix in SUFFIXES:
        found = tuple(sorted(folder.rglob(f"*{suffix}")))
        if found:
            return found
    raise VlmHeadsError(f"{path} holds no table", f"files that end in {' or '.join(SUFFIXES)}")


def snapshot(path: Path) -> Path:
    """Return the snapshot inside of a hub cache's folder of a data set; any other folder as is."""
    if not (path / "snapshots").is_dir():
        return path
    main = path / "refs" / "main"
    names = sorted(folder.name for folder in (path / "snapshots").iterdir())
    name = main.read_text("utf-8").strip() if main.is_file() else ""
    if name not in names:
        if len(names) != 1:
            raise VlmHeadsError(
                f"{path} holds {len(names)} snapshots", "one", "pass the snapshot's own folder"
            )
        name = names[0]
    return path / "snapshots" / name


def read_table(
    source: Source, files: Sequence[Path], images: Sequence[str] = ("image",)
) -> Iterator[Row]:
    """Yield the rows of a table's files; the columns in `images` become a `Picture` or None.

    Images inside of a file are written to `source.keep` under the digest of their content. Without
    it their content is not read, unless nothing else tells one from another.

    Raises:
        VlmHeadsError: a file that is not a table, or a Parquet file without pyarrow.
    """
    for path in files:
        kind = path.suffix.lower()
        if kind == ".parquet":
            yield from _parquet(source, path, images)
        elif kind in (".tsv", ".csv"):
            yield from _separated(source, path, images, "\t" if kind == ".tsv" else ",")
        else:
            for place, record in read_records(path):
                named = {n: _named(source, path, record[n], place) for n in images if n in record}
                yield Row(place, {**record, **named})


def _named(source: Source, path: Path, value: Any, place: str) -> Picture | None:
    """Return the picture that a JSON record names: a file name, or {"path": file name}."""
    if isinstance(value, dict):
        value = value.get("path")
    if not isinstance(value, str) or not value:
        return None
    return Picture(inside(source.images or path.parent, value, place), value)


def _separated(source: Source, path: Path, images: Sequence[str], separator: str) -> Iterator[Row]:
    stored: dict[str, Picture] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file, _long_fields():
            reader = csv.DictReader(file, delimiter=separator, strict=True)
            for values in reader:
                place = f"{path}:{reader.line_num}"
                if None in values or None in values.values():
                    raise VlmHeadsError(
                        f"{place}: not as many cells as headings", f"{len(reader.fieldnames or ())}"
                    )
                row = Row(place, dict(values))
                for name in images:
                    cell = values.get(name) or ""
                    row.values[name] = _cell(source, path, cell, place) if cell else None
                    if cell and len(cell) <= REFERENCE and cell in stored:
                        row.values[name] = stored[cell]
                    elif cell and values.get("index"):
                        stored[values["index"]] = row.values[name]
                yield row
    except UnicodeDecodeError as error:
        raise VlmHeadsError(f"{path}: bytes that are not UTF-8", "UTF-8") from error
    except (OSError, csv.Error) as error:
        raise VlmHeadsError(f"{path} cannot be read ({error})", "a table") from error


def _cell(source: Source, path: Path, cell: str, place: str) -> Picture:
    if len(cell) <= REFERENCE or Path(cell[-8:]).suffix:
        return Picture(inside(source.images or path.parent, cell, place), cell)
    try:
        content = base64.b64decode(cell, validate=True)
    except binascii.Error as error:
        raise VlmHeadsError(f"{place}: an image that is not base64", "base64") from error
    return keep_image(content, source.keep)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Allow cells that hold a picture while a table is read."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def keep_image(content: bytes, folder: Path | None) -> Picture:
    """Write an image under its digest, unless it is there or no folder is given."""
    digest = hashlib.sha256(content).hexdigest()
    if folder is None:
        return Picture(None, digest)
    suffix = next((name for start, name in MAGIC.items() if content.startswith(start)), ".img")
    file = folder / f"{digest[:32]}{suffix}"
    try:
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_bytes(content)
            part.replace(file)
    except OSError as error:
        raise VlmHeadsError(f"{file} cannot be written ({error.strerror})", "room") from error
    return Picture(file, digest)


def _parquet(source: Source, path: Path, images: Sequence[str]) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise VlmHeadsError(
            f"{path} is Parquet, and pyarrow is not installed",
            "pyarrow",
            f"install it with {install_hint('parquet')}",
        ) from error
    number = 0
    try:
        table = parquet.ParquetFile(path)
        names = table.schema_arrow.names
        plain = [name for name in names if name not in images]
        wanted = [name for name in images if name in names]
        paths = [f"{name}.path" for name in wanted]
        whole = source.keep is not None or not _have_paths(table, paths)
        for batch in table.iter_batches(
            batch_size=64, columns=plain + (wanted if whole else paths)
        ):
            for values in batch.to_pylist():
                number += 1
                row = Row(f"{path}: row {number}", values)
                for name in wanted:
                    row.values[name] = _struct(source, row.place, values[name])
                yield row
    except (OSError, arrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise VlmHeadsError(f"{path} cannot be read ({reason})", "a Parquet file") from error


def _have_paths(table: Any, paths: Sequence[str]) -> bool:
    """Whether every image of a table names the file that it came from."""
    columns = {table.schema.column(at).path for at in range(len(table.schema))}
    if not paths or not columns.issuperset(paths):
        return False
    structs = table.read(columns=list(paths)).to_pylist()
    named = [value["path"] for row in structs for value in row.values() if value is not None]
    return all(named)


def _struct(source: Source, place: str, value: Any) -> Picture | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise VlmHeadsError(f"{place}: image {str(value)[:60]!r}", "bytes and path")
    content, name = value.get("bytes"), value.get("path")
    if content:
        picture = keep_image(content, source.keep)
        return Picture(picture.file, name or picture.identity)
    if not name:
        return None
    return Picture(inside(source.images, name, place) if source.images else None, name)
