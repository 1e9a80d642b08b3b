"""Where a job's captions go: one file of lines, an ImageFolder, text files, or files of samples."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlmheads.errors import VlmHeadsError

JSONL, METADATA, TXT, PARQUET, WEBDATASET = FORMATS = (
    "jsonl",
    "metadata",
    "txt",
    "parquet",
    "webdataset",
)
PACKED = (PARQUET, WEBDATASET)
STATE = ".vlmheads"  # hidden, so that whoever reads a folder of images passes over it


@dataclass(frozen=True)
class Output:
    """Where a job writes.

    Args:
        format: one of FORMATS.
        place: the file or folder that the user named.
        lines: the file of captions to which each one is appended when it is done.
        state: the folder of what the job must remember: settings, failures, its lock.
    """

    format: str
    place: Path
    lines: Path
    state: Path

    @property
    def failed(self) -> Path:
        """The file of images that failed."""
        return self.state / "failed.jsonl"

    def sidecar(self, key: str) -> Path:
        """Return the text file of an image: its path with .txt for the last suffix."""
        return self.place / PurePosixPath(key).with_suffix(".txt")


def open_output(out: Path | None, kind: str | None, base: Path) -> Output:
    """Return where captions go, by what the user says of it.

    Args:
        out: a file of lines, or a folder; for `txt` None for beside each image.
        kind: one of FORMATS; by default `jsonl` for a name that ends so.
        base: the folder of the images.

    Raises:
        VlmHeadsError: a format and a place that do not go together.
    """
    if out is None:
        if kind != TXT:
            raise VlmHeadsError(f"--format {kind} without --out", "a folder or file to write to")
        place = base
    else:
        place = Path(os.path.abspath(out))
        file = place.suffix == ".jsonl"
        if kind is None and not file:
            raise VlmHeadsError(
                f"--out {out} without --format",
                "a file that ends with .jsonl, or a folder with "
                f"--format {', '.join(FORMATS[1:-1])} or {FORMATS[-1]}",
            )
        kind = kind or JSONL
        if file != (kind == JSONL):
            wanted = "a file that ends with .jsonl" if kind == JSONL else "a folder"
            raise VlmHeadsError(f"--out {out} with --format {kind}", wanted)
        if place.is_dir() if file else place.exists() and not place.is_dir():
            raise VlmHeadsError(f"--out {out} is a {'folder' if file else 'file'}", "another name")
    if kind == JSONL:
        return Output(kind, place, place, place.with_suffix(".job"))
    state = place / STATE
    lines = place / "metadata.jsonl" if kind == METADATA else state / "captions.jsonl"
    return Output(str(kind), place, lines, state)
