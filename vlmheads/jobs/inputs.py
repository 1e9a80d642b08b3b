"""Which images a job is about: files, folders, patterns, and files that hold many images."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vlmheads.errors import VlmHeadsError
from vlmheads.images import image_suffixes
from vlmheads.jobs.archives import is_archive, read_archive

# What is left out: a noun for one of them, and why.
NO_SUFFIX = ("file", "without an image suffix")
HIDDEN = ("hidden file", "")
TWICE = ("image", "named twice")
ASIDE = ("file", "of many images, beside images")
INSIDE = ("folder", "inside those named (--recursive enters them)")
CIRCLE = ("link", "to a folder around it")
REASONS = (NO_SUFFIX, INSIDE, HIDDEN, ASIDE, TWICE, CIRCLE)


@dataclass(frozen=True)
class Item:
    """One image of a job.

    Args:
        key: its name in records: a path relative to the root, with "/" between folders.
        path: where it is; None inside an archive.
        content: the bytes of its file, where they are there already.
        problem: why there is no image to read.
    """

    key: str
    path: Path | None = None
    content: bytes | None = None
    problem: VlmHeadsError | None = None

    def read(self) -> bytes:
        """Return the bytes of the image file.

        Raises:
            VlmHeadsError: there is none, or it cannot be read.
        """
        if self.problem is not None:
            raise self.problem
        if self.content is not None:
            return self.content
        path = self.path
        assert path is not None
        name = utf8_name(str(path))
        try:
            if stat.S_ISREG(path.stat().st_mode):
                return path.read_bytes()
        except FileNotFoundError as error:
            raise VlmHeadsError(f"no file {name}", "an image file") from error
        except OSError as error:
            raise VlmHeadsError(f"{name} cannot be read ({error.strerror})", "an image") from error
        raise VlmHeadsError(f"{name} is not a file", "an image file")


@dataclass
class Found:
    """What the arguments of a job name.

    Args:
        files: image files, in order.
        archives: tar and parquet files, and saved datasets, in order.
        problems: what is none of them, with the reason.
        skipped: how many there are of what was left out, by reason and suffix.
        base: the innermost folder that holds all of it.
        pairs: images in memory, which come once.
    """

    files: list[Path] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)
    problems: list[tuple[str, VlmHeadsError]] = field(default_factory=list)
    skipped: Counter[tuple[tuple[str, str], str]] = field(default_factory=Counter)
    base: Path = field(default_factory=Path)
    pairs: Iterator[Item] | None = None

    def notice(self) -> str:
        """Say in one line what was left out and why; "" for nothing."""
        reasons: dict[tuple[str, str], Counter[str]] = {}
        for (reason, suffix), number in self.skipped.items():
            reasons.setdefault(reason, Counter())[suffix] += number
        parts = []
        for noun, why in (reason for reason in REASONS if reason in reasons):
            suffixes = reasons[noun, why]
            ranked = [suffix for suffix, _ in sorted(suffixes.items(), key=_most) if suffix]
            shown = ", ".join([*ranked[:4], *["..."] * (len(ranked) > 4)])
            words = (_count(suffixes.total(), noun), why, f"({shown})" if shown else "")
            parts.append(" ".join(word for word in words if word))
        return "left out: " + " and ".join(parts) if parts else ""


def find(names: Iterable[str], *, recursive: bool = False) -> Found:
    """Find the images that names stand for.

    A name is a file, a folder, or a pattern such as "photos/**/*.jpg". A folder's images are taken
    in order of name. Files that hold many images (.tar, .tar.gz, .tgz, .parquet) count where they
    are named, and in a folder that has no image of its own; a dataset that `datasets` saved to disk
    is one. Hidden files, and those without the suffix of an image, are counted and left out.

    Args:
        names: as the user wrote them.
        recursive: whether to enter folders inside of folders.
    """
    found = Found()
    bases: list[str] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            bases.append(os.path.abspath(path))
            _folder(found, path, recursive)
        elif path.exists() or path.is_symlink() or not glob.has_magic(name):
            bases.append(os.path.dirname(os.path.abspath(path)))
            _file(found, path, named=True)
        else:
            fixed = Path(*_before_magic(path.parts))
            bases.append(os.path.abspath(fixed))
            _pattern(found, name, recursive)
    _once(found)
    found.base = Path(os.path.commonpath(bases)) if bases else Path.cwd()
    return found


def _before_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _pattern(found: Found, pattern: str, recursive: bool) -> None:
    """Add what a pattern matches."""
    matches = sorted(glob.glob(pattern, recursive=True))
    for match in map(Path, matches):
        if not match.is_dir():
            _file(found, match, named=False)
        elif "**" not in pattern:  # which names what is inside by itself
            _folder(found, match, recursive)
    if not matches:
        found.problems.append((pattern, VlmHeadsError(f"no file matches {pattern}", "an image")))


def _file(found: Found, path: Path, *, named: bool) -> None:
    """Add one file; one that the user named counts whatever it is called."""
    if is_archive(path):
        found.archives.append(path)
    elif named or path.suffix.lower() in image_suffixes():
        found.files.append(path)
    else:
        found.skipped[NO_SUFFIX, path.suffix.lower() or "no suffix"] += 1


def _folder(found: Found, folder: Path, recursive: bool) -> None:
    """Add the images of a folder, or the files with many images in it where it has none."""
    if is_archive(folder):
        found.archives.append(folder)
        return
    images: list[Path] = []
    archives: list[Path] = []
    problems = len(found.problems)
    for path in _walk(found, folder, recursive, set()):
        if is_archive(path):
            archives.append(path)
        elif path.suffix.lower() in image_suffixes():
            images.append(path)
        else:
            found.skipped[NO_SUFFIX, path.suffix.lower() or "no suffix"] += 1
    found.files += images
    if not images:
        found.archives += archives
    elif archives:
        found.skipped.update((ASIDE, path.suffix.lower()) for path in archives)
    if not images and not archives and problems == len(found.problems):
        reason = VlmHeadsError(
            f"{folder} holds no image", f"files such as {folder / 'picture.jpg'}"
        )
        found.problems.append((str(folder), reason))


def _walk(found: Found, folder: Path, recursive: bool, above: set[str]) -> Iterator[Path]:
    """Yield the files of a folder in order of name, those of its folders at their place."""
    above = {*above, os.path.realpath(folder)}
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        reason = VlmHeadsError(f"folder {folder} cannot be read ({error.strerror})", "a folder")
        found.problems.append((str(folder), reason))
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            if not entry.is_dir():
                found.skipped[HIDDEN, ""] += 1
        elif not entry.is_dir() or is_archive(path):
            yield path
        elif not recursive:
            found.skipped[INSIDE, ""] += 1
        elif os.path.realpath(path) in above:
            found.skipped[CIRCLE, ""] += 1
        else:
            yield from _walk(found, path, recursive, above)


def _once(found: Found) -> None:
    """Leave out what was named twice."""
    for name in ("files", "archives"):
        paths = getattr(found, name)
        kept = {os.path.abspath(path): path for path in reversed(paths)}
        if len(kept) < len(paths):
            found.skipped[TWICE, ""] += len(paths) - len(kept)
        setattr(found, name, list(reversed(kept.values())))


def items(found: Found, root: Path | None, *, column: str | None = None) -> Iterator[Item]:
    """Yield the images of a job in order: files, then what archives hold, then what is none.

    Args:
        found: what the user named.
        root: what keys are relative to; None for names as they were given.
        column: the column of images in parquet files.
    """
    for path in found.files:
        yield file_item(path, root)
    for archive in found.archives:
        prefix = key_of(archive, root)
        name = f"{prefix}/" if prefix not in ("", ".") else ""
        try:
            for inner, content in read_archive(archive, column):
                yield inner_item(name + inner, content)
        except VlmHeadsError as error:
            yield Item(prefix, problem=error)
    yield from found.pairs or ()
    for name, problem in found.problems:
        yield Item(utf8_name(name), problem=problem)


def file_item(path: Path, root: Path | None) -> Item:
    """Return the item of one image file."""
    key = key_of(path, root)
    shown = utf8_name(key)
    if root is None:
        return Item(shown, path)
    if shown != key:
        return Item(
            shown,
            path,
            problem=VlmHeadsError(f"{shown} is a name that is not UTF-8", todo="rename it"),
        )
    return Item(key, path)


def inner_item(name: str, content: bytes) -> Item:
    """Return the item of an image that is no file, whose name somebody else chose."""
    shown = utf8_name(name)
    problem = None
    if shown != name:
        problem = VlmHeadsError(f"{shown} is a name that is not UTF-8", todo="rename it")
    if name.startswith("/") or ".." in name.split("/"):
        problem = VlmHeadsError(f"{shown} is a name that leads elsewhere", "a relative one")
    return Item(shown, content=content, problem=problem)


def key_of(path: Path, root: Path | None) -> str:
    """Return a path relative to the root, with "/" between folders.

    Raises:
        VlmHeadsError: it is outside of the root.
    """
    if root is None:
        return str(path)
    full = Path(os.path.abspath(path))
    if not full.is_relative_to(root):
        raise VlmHeadsError(
            f"{utf8_name(str(path))} is outside of {root}, to which names in the output are "
            "relative",
            "images below it",
            "pass --root, or choose another --out",
        )
    return full.relative_to(root).as_posix()


def utf8_name(name: str) -> str:
    r"""Return a file name as text, bytes that are not UTF-8 as \xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def listed(content: bytes) -> list[str]:
    """Return the paths in a list, one a line, or with a zero byte after each as find -print0 has.

    Args:
        content: what came on standard input.
    """
    parts = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(part) for part in parts if part.strip()]


def _most(counted: tuple[str, int]) -> tuple[int, str]:
    return -counted[1], counted[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
