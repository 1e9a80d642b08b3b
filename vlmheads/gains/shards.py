"""Safetensors files on disk: copied tensor for tensor, with a few of them changed or renamed.

A file is 8 bytes with the length of its header, the header as JSON, and the tensors one after the
other. A copy keeps the order, the data types and the metadata, so that whatever is not changed is
the same bytes; no more than one tensor is in memory at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError

Edit = Callable[[Tensor], Tensor]

METADATA = "__metadata__"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_LENGTH = 8
_CHUNK = 2**24


@dataclass(frozen=True)
class Entry:
    """One tensor in a file: its data type as safetensors calls it, shape, and bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a file says about its tensors, and where the first byte of them is."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data: int


def read_header(path: Path) -> Header:
    """Read the header of a file that `vlmheads.model.saved.check_weights` has found to be whole."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        found: dict[str, Any] = json.loads(file.read(length))
    metadata = found.pop(METADATA, {})
    entries = {
        name: Entry(about["dtype"], tuple(about["shape"]), *about["data_offsets"])
        for name, about in found.items()
    }
    return Header(entries, metadata, _LENGTH + length)


def read(source: Path, name: str) -> Tensor:
    """Return one tensor of a file, of floating point.

    Raises:
        VlmHeadsError: it is stored as something else.
    """
    header = read_header(source)
    _check(header, name, source)
    with source.open("rb") as file:
        return _read(file, header.data, header.entries[name])


def copy(source: Path, target: Path, edits: Mapping[str, Edit], names: Mapping[str, str]) -> None:
    """Copy a file of weights, change some tensors, and give some another name.

    Args:
        source: the file; it is not written to.
        target: a new file.
        edits: name in `source` -> what the tensor becomes, of the same shape; it is stored in the
            data type that it had.
        names: name in `source` -> name in `target`, where they differ.

    Raises:
        VlmHeadsError: an edited tensor that is not stored in floating point.
        OSError: the disk is full or cannot be written.
    """
    header = read_header(source)
    for name in edits:
        _check(header, name, source)
    data = header.data
    if names:
        data = _copy_renamed(source, target, header, names)
    else:
        shutil.copyfile(source, target)
    if edits:
        with target.open("r+b") as file:
            for name, edit in edits.items():
                _rewrite(file, data, header.entries[name], edit)


def _check(header: Header, name: str, source: Path) -> None:
    if (found := header.entries[name].dtype) not in DTYPES:
        raise VlmHeadsError(
            f"{name} in {source.name} is stored as {found}", f"one of {', '.join(DTYPES)}"
        )


def _read(file: IO[bytes], data: int, entry: Entry) -> Tensor:
    """Return one tensor of an open file."""
    file.seek(data + entry.start)
    raw = bytearray(file.read(entry.stop - entry.start))
    return torch.frombuffer(raw, dtype=DTYPES[entry.dtype]).reshape(entry.shape)


def _rewrite(file: IO[bytes], data: int, entry: Entry, edit: Edit) -> None:
    """Change one tensor of an open file in its place."""
    before = _read(file, data, entry)
    after = edit(before).to(before.dtype).contiguous()
    file.seek(data + entry.start)
    file.write(after.flatten().view(torch.uint8).numpy().tobytes())


def _copy_renamed(source: Path, target: Path, header: Header, names: Mapping[str, str]) -> int:
    """Copy a file under a header with other names; return where its data begins."""
    about: dict[str, Any] = {METADATA: dict(header.metadata)} if header.metadata else {}
    for name, entry in header.entries.items():
        about[names.get(name, name)] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.start, entry.stop],
        }
    text = json.dumps(about, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    with source.open("rb") as old, target.open("wb") as new:
        new.write(len(text).to_bytes(_LENGTH, "little") + text)
        old.seek(header.data)
        shutil.copyfileobj(old, new, _CHUNK)
    return _LENGTH + len(text)
