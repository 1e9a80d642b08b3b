"""Files that are written: checked before anything is measured, and written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from vlmheads.errors import VlmHeadsError

FIGURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_BLOCK = 4096


def check_output(
    path: Path | None, *, inputs: Iterable[Path] = (), suffixes: tuple[str, ...] = ()
) -> None:
    """Refuse a file that could not be written in the end, before anything is measured.

    Args:
        path: the file; None is fine.
        inputs: files that are read, which it must not be.
        suffixes: that it may have; none for any.

    Raises:
        VlmHeadsError: a folder, an input, a suffix that is not known, a folder that is not there,
            or one where nothing can be written.
    """
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise VlmHeadsError(f"{path} ends in {path.suffix!r}", f"one of {', '.join(suffixes)}")
    try:
        folder = path.is_dir()
    except OSError as error:  # a name that is too long
        raise VlmHeadsError(f"{path} cannot be written ({error.strerror})") from error
    if folder:
        raise VlmHeadsError(f"{path} is a folder", "the name of a file")
    if any(_same(path, one) for one in inputs):
        raise VlmHeadsError(f"{path} would overwrite what is read", "another name")
    if not path.parent.is_dir():
        raise VlmHeadsError(f"no folder {path.parent} to write {path.name} into", "one that exists")
    if not _special(path):
        _try(path.parent, path.name)


def check_new(path: Path) -> None:
    """Refuse a file or folder that could not be made in the end, and leave nothing behind.

    Raises:
        VlmHeadsError: nothing can be written in the innermost folder around it that there is.
    """
    try:
        _try(next(one for one in path.absolute().parents if one.exists()), path.name)
    except VlmHeadsError as error:
        raise VlmHeadsError(f"{path} cannot be written: {error.seen}") from error


def check_folder(path: Path) -> None:
    """Make a folder for what will be written, or refuse it before anything is measured.

    Raises:
        VlmHeadsError: it cannot be made, or nothing can be written in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VlmHeadsError(f"folder {path} cannot be made ({error.strerror})") from error
    _try(path, "")


def save(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file next to its place and move it there; keep it elsewhere where that fails.

    A device or a pipe is written directly.

    Args:
        path: the file.
        write: writes to the path that it is given.

    Raises:
        VlmHeadsError: it cannot be written; the message says where the result is kept instead.
    """
    try:
        with replacing(path) as place:
            write(place)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VlmHeadsError(f"{path} cannot be written ({reason})", todo=_kept(path, write)) from (
            error
        )


def save_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; see `save`."""
    save(path, lambda place: place.write_text(text, encoding="utf-8"))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place next to a file, which takes the file's place when all is written and on disk.

    A device or a pipe has none: it is written directly. Errors of the file system pass.
    """
    if _special(path):
        yield path
        return
    place = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield place
        with place.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(place, path)
    except BaseException:
        with suppress(OSError):
            place.unlink()
        raise


def replace(path: Path, text: str) -> None:
    """Write a text file anew, whole or not at all, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as place:
        place.write_bytes(text.encode("utf-8"))


@contextmanager
def writing(path: Path, kept: str = "") -> Iterator[None]:
    """Turn an error of the file system into one line that names the path.

    Args:
        path: what is written.
        kept: what the reader can rely on, such as "what is finished is kept".
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise VlmHeadsError(
            f"{error.filename or path} cannot be written ({reason})",
            "a folder to write to, with space left",
            kept,
        ) from error


def _kept(path: Path, write: Callable[[Path], object]) -> str:
    """Keep a result that could not be written in the folder for temporary files, if that works."""
    try:
        kept = Path(tempfile.mkdtemp(prefix="vlmheads-")) / path.name
        write(kept)
    except (OSError, SafetensorError):
        return ""
    return f"the result is kept in {kept}"


def _try(folder: Path, name: str) -> None:
    """Write a block into a folder, under a name of about that length, and remove it."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=f"{name}.") as file:
            file.write(bytes(_BLOCK))
            file.flush()
    except OSError as error:
        raise VlmHeadsError(f"nothing can be written in {folder} ({error.strerror})") from error


def _special(path: Path) -> bool:
    """Whether it is a device, a pipe or a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _same(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return first.resolve() == second.resolve()
