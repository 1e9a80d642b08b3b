"""Input files: records of JSON Lines or one JSON list, captions, and file hashes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from vlmheads.digest import file_sha256 as file_sha256
from vlmheads.errors import VlmHeadsError
from vlmheads.schema import BOM, decode

ImageId = int | str


@dataclass(frozen=True)
class Caption:
    """One generated caption of one image.

    Args:
        image_id: as the file spells it.
        text: the caption.
        place: file and line, for error messages.
        at_limit: whether the token limit ended it; None if the file does not say.
    """

    image_id: ImageId
    text: str
    place: str = ""
    at_limit: bool | None = None


class _CaptionRecord(msgspec.Struct):
    """A line of captions; one with an error is an image that failed in `predict`."""

    image_id: ImageId | None = None
    caption: str | None = None
    at_limit: bool | None = None
    error: Any = None


def image_key(image_id: ImageId) -> str:
    """Return the canonical form of an image id: 42, "42" and "000000000042" are one image."""
    text = str(image_id)
    return (text.lstrip("0") or "0") if text.isascii() and text.isdecimal() else text


def read_records(path: Path, form: Any = dict) -> Iterator[tuple[str, Any]]:
    """Yield the place and the content of every record in a JSON Lines file or JSON list.

    JSON Lines are read one at a time; blank lines and a byte order mark are skipped.

    Args:
        path: the file.
        form: of a record; see `vlmheads.schema`. By default any JSON object.

    Raises:
        VlmHeadsError: a file that cannot be read, or a record of another form, with its line.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(BOM).lstrip()
            file.seek(0)
            if start.startswith(b"["):
                content = file.read().removeprefix(BOM)
                listed: list[msgspec.Raw] = decode(content, list[msgspec.Raw], str(path))
                for number, raw in enumerate(listed, 1):
                    place = f"{path}: record {number}"
                    yield place, decode(bytes(raw), form, place)
                return
            for number, line in enumerate(file, 1):
                text = line.removeprefix(BOM) if number == 1 else line
                if text.strip():
                    yield f"{path}:{number}", decode(text, form, f"{path}:{number}")
    except OSError as error:
        raise VlmHeadsError(f"{path} cannot be read ({error.strerror})", "a file") from error


def read_captions(path: Path, *, repeats: bool | None = None) -> Iterator[Caption]:
    """Yield the captions of a file whose records have `image_id` and `caption`, in order.

    Args:
        path: JSON Lines, a JSON list, or a run folder of `vlmheads eval predict`.
        repeats: whether an image may occur more than once. By default it may in a JSON list, where
            several captions per image are common, and may not in JSON Lines, where it means that a
            line was written twice.

    Raises:
        VlmHeadsError: not a single caption, or what `read_records` refuses.
    """
    seen: dict[str, str] = {}
    failed = 0
    record: _CaptionRecord
    for place, record in read_records(predictions_file(path), _CaptionRecord):
        if record.error:
            failed += 1
            continue
        if record.image_id is None or record.caption is None:
            lacking = "image_id" if record.image_id is None else "caption"
            raise VlmHeadsError(f"{place}: no {lacking}", "image_id and caption")
        allowed = repeats if repeats is not None else ": record " in place
        key = image_key(record.image_id)
        if not allowed and key in seen:
            raise VlmHeadsError(
                f"{place}: image {record.image_id} again, first at {seen[key]}",
                "one line per image",
                "pass --repeats if there are several captions per image",
            )
        seen[key] = place
        yield Caption(record.image_id, record.caption, place, record.at_limit)
    if not seen:
        raise nothing_in(predictions_file(path), "caption", failed)


def nothing_in(path: Path, what: str, failed: int = 0) -> VlmHeadsError:
    """Return the refusal of a file without a single record of a kind."""
    note = f" ({failed} that failed)" if failed else ""
    return VlmHeadsError(f"{path} holds no {what}{note}", f"at least one {what}")


def predictions_file(path: Path) -> Path:
    """Return the file of predictions: the path itself, or the one in a run folder."""
    return path / "predictions.jsonl" if path.is_dir() else path


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file; for a run folder, of its predictions."""
    files = map(predictions_file, paths)
    return {str(file): file_sha256(file) for file in files}


def inside(folder: Path, name: str, place: str) -> Path:
    """Return a file that data name, which has to be inside the folder of the images.

    Raises:
        VlmHeadsError: an absolute name, or one with "..".
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or path == PurePosixPath():
        raise VlmHeadsError(
            f"{place} names the file {name[:100]!r}", f"a name inside of {folder}, without .."
        )
    return folder / path
