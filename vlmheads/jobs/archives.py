"""Files that hold many images: webdataset tars, parquet files, and saved Hugging Face datasets."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vlmheads.errors import VlmHeadsError, install_hint
from vlmheads.images import image_suffixes

TARS = (".tar", ".tar.gz", ".tgz")
ROWS = 64  # of a parquet file in memory at a time
DIGITS = 8


def is_archive(path: Path) -> bool:
    """Whether a path is taken for a file of many images, by its name; a folder by what it holds."""
    if path.is_dir():
        return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
    return path.name.lower().endswith((*TARS, ".parquet"))


def number_of_images(path: Path) -> int | None:
    """Return how many images there are in an archive, without reading them; None where unknown."""
    try:
        if path.name.lower().endswith(".parquet"):
            import pyarrow.parquet

            return int(pyarrow.parquet.read_metadata(path).num_rows)
        if path.name.lower().endswith(".tar"):
            with tarfile.open(path) as tar:
                return sum(_is_image(name) for name in tar.getnames())
    except Exception:  # whatever is wrong with it is said when it is read
        return None
    return None


def read_archive(path: Path, column: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each image in an archive.

    The name is that of the member in a tar, and the number of the row elsewhere.

    Raises:
        VlmHeadsError: a reader that is not installed, a damaged file (after what precedes the
            damage), or a table without a column of images.
    """
    if path.is_dir():
        yield from _dataset(path, column)
    elif path.name.lower().endswith(".parquet"):
        yield from _parquet(path, column)
    else:
        yield from _tar(path)


def require(module: str, what: str) -> Any:
    """Import a reader or writer of the extra `jobs`.

    Raises:
        VlmHeadsError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise VlmHeadsError(
            f"{what} needs {module.partition('.')[0]}, which is not installed",
            todo=install_hint("jobs"),
        ) from error


def _is_image(name: str) -> bool:
    """Whether a member of a tar is the image of its sample: all after the first dot says so."""
    base = name.rsplit("/", 1)[-1]
    stem, _, extension = base.partition(".")
    return bool(stem) and f".{extension.lower()}" in image_suffixes()


def _tar(path: Path) -> Iterator[tuple[str, bytes]]:
    reader = require("webdataset.tariterators", f"reading {path}")
    try:
        with path.open("rb") as stream:
            for member in reader.tar_file_iterator(stream, select_files=_is_image):
                yield member["fname"], member["data"]
            if path.suffix.lower() == ".tar" and not _has_end(stream):
                raise EOFError("it has no end")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise _damaged(path, error) from error


def _has_end(stream: IO[bytes]) -> bool:
    """Whether a tar ends with zeros: one that was cut short between its members does not."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - tarfile.BLOCKSIZE))
    return not any(stream.read())


def _parquet(path: Path, column: str | None) -> Iterator[tuple[str, bytes]]:
    arrow = require("pyarrow.parquet", f"reading {path}")
    try:
        with arrow.ParquetFile(path) as file:
            chosen = _image_column(file.schema_arrow, column, path)
            row = 0
            for batch in file.iter_batches(ROWS, columns=[chosen]):
                for value in batch.column(0).to_pylist():
                    yield f"{row:0{DIGITS}d}", _content(value, path, row)
                    row += 1
    except VlmHeadsError:
        raise
    except (OSError, ValueError) as error:  # of which pyarrow's own are
        raise _damaged(path, error) from error


def _dataset(path: Path, column: str | None) -> Iterator[tuple[str, bytes]]:
    datasets = require("datasets", f"reading {path}")
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # it raises whatever a damaged folder makes it trip over
        raise _damaged(path, error) from error
    splits = loaded if isinstance(loaded, dict) else {"": loaded}
    for split, table in splits.items():
        chosen = _image_column(table.features.arrow_schema, column, path)
        table = table.select_columns([chosen]).cast_column(chosen, datasets.Image(decode=False))
        for row, record in enumerate(table):
            name = f"{row:0{DIGITS}d}"
            yield f"{split}/{name}" if split else name, _content(record[chosen], path, row)


def _image_column(schema: Any, column: str | None, path: Path) -> str:
    """Return the column of images: the one asked for, or the only one that can be."""
    import pyarrow

    def fits(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return any(kind[index].name == "bytes" for index in range(kind.num_fields))
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    columns = [item.name for item in schema if fits(item.type)]
    if column is None and len(columns) == 1:
        return str(columns[0])
    if column in columns:
        return str(column)
    named = f"no column {column!r} of images" if column else f"{len(columns)} columns of images"
    raise VlmHeadsError(
        f"{path} has {named} among {', '.join(schema.names)}",
        "one whose values are the bytes of image files",
        "pass --image-column" if columns and not column else "",
    )


def _content(value: Any, path: Path, row: int) -> bytes:
    """Return the bytes of an image in a table, which may name a file beside it instead."""
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            file = Path(value["path"])
            try:
                return (file if file.is_absolute() else path.parent / file).read_bytes()
            except OSError:
                return b""
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""


def _damaged(path: Path, error: Exception) -> VlmHeadsError:
    reason = " ".join(str(error.args[0] if error.args else error).split())[:200]
    return VlmHeadsError(f"{path} cannot be read further ({reason})", "a whole file")
