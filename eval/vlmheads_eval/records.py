"""Input files: records of JSON Lines or one JSON list, captions, and file hashes."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError

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


def image_key(image_id: ImageId) -> str:
    """Return the canonical form of an image id: 42, "42" and "000000000042" are one image."""
    text = str(image_id)
    return str(int(text)) if text.isascii() and text.isdecimal() else text


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of every record in a JSON Lines file or JSON list.

    A record that is not a JSON object or not UTF-8 raises an error that names the file and line.
    JSON Lines are read one at a time; blank lines are skipped.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4096).lstrip()
            file.seek(0)
            if start.startswith(b"["):
                yield from _list_records(path, file.read())
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _record(f"{path}:{number}", line)
    except OSError as error:
        raise VlmHeadsError(f"{path} cannot be read ({error.strerror})", "a file") from error


def _list_records(path: Path, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        records = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise VlmHeadsError(f"{path}:{line}: bytes that are not UTF-8", "UTF-8") from error
    except json.JSONDecodeError as error:
        raise VlmHeadsError(f"{path}:{error.lineno}: {error.msg}", "one JSON list") from error
    except RecursionError as error:
        raise VlmHeadsError(f"{path}: nested too deeply", "a list of objects") from error
    for number, record in enumerate(records, 1):
        place = f"{path}: record {number}"
        if not isinstance(record, dict):
            raise VlmHeadsError(f"{place}: {_short(record)}", "a JSON object")
        yield place, record


def _record(place: str, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise VlmHeadsError(f"{place}: bytes that are not UTF-8", "UTF-8") from error
    except json.JSONDecodeError as error:
        message = f"{place}: {error.msg.removesuffix(' at')} at column {error.colno}"
        raise VlmHeadsError(message, "one JSON object per line") from error
    except (RecursionError, ValueError) as error:
        raise VlmHeadsError(f"{place}: nested too deeply or too long a number") from error
    if not isinstance(record, dict):
        raise VlmHeadsError(f"{place}: {_short(record)}", "a JSON object")
    return record


def read_captions(path: Path, *, repeats: bool | None = None) -> Iterator[Caption]:
    """Yield the captions of a file whose records have `image_id` and `caption`, in order.

    Args:
        path: JSON Lines, a JSON list, or a run folder of `vlmheads eval predict`.
        repeats: whether an image may occur more than once. By default it may in a JSON list, where
            several captions per image are common, and may not in JSON Lines, where it means that a
            line was written twice.
    """
    seen: dict[str, str] = {}
    for place, record in read_records(predictions_file(path)):
        allowed = repeats if repeats is not None else ": record " in place
        caption = _caption(place, record)
        if caption is None:
            continue
        key = image_key(caption.image_id)
        if not allowed and key in seen:
            raise VlmHeadsError(
                f"{place}: image {caption.image_id} again, first at {seen[key]}",
                "one line per image",
                "pass --repeats if there are several captions per image",
            )
        seen[key] = place
        yield caption


def predictions_file(path: Path) -> Path:
    """Return the file of predictions: the path itself, or the one in a run folder."""
    return path / "predictions.jsonl" if path.is_dir() else path


def _caption(place: str, record: dict[str, Any]) -> Caption | None:
    if record.get("error"):
        return None  # An image that failed in `predict`.
    image_id, text = record.get("image_id"), record.get("caption")
    if isinstance(image_id, bool) or not isinstance(image_id, int | str):
        raise VlmHeadsError(f"{place}: image_id {_short(image_id)}", "a number or a string")
    if not isinstance(text, str):
        raise VlmHeadsError(f"{place}: caption {_short(text)}", "a string")
    at_limit = record.get("at_limit")
    if at_limit is not None and not isinstance(at_limit, bool):
        raise VlmHeadsError(f"{place}: at_limit {_short(at_limit)}", "true or false")
    return Caption(image_id, text, place, at_limit)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file; for a run folder, of its predictions."""
    files = (path / "predictions.jsonl" if path.is_dir() else path for path in paths)
    return {str(file): file_sha256(file) for file in files}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, without reading it whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
