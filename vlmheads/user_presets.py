"""Where presets of the user are kept: one folder each, under the user's data folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vlmheads.errors import VlmHeadsError

PRESET = "preset.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def presets_folder() -> Path:
    """Return the folder: ``$XDG_DATA_HOME/vlmheads/presets``, usually under ``~/.local/share``."""
    root = os.environ.get("XDG_DATA_HOME")
    return (Path(root) if root else Path.home() / ".local" / "share") / "vlmheads" / "presets"


def user_presets() -> dict[str, Path]:
    """Return the file of each preset of the user by its name, the one added last first."""
    folder = presets_folder()
    found = [path for path in folder.glob(f"*/{PRESET}") if path.is_file()]
    found.sort(key=lambda path: (-path.stat().st_mtime_ns, path))
    return {f"{path.parent.name}.json": path for path in found}


def add_preset(name: str, content: bytes, files: Mapping[str, Path]) -> Path:
    """Keep a preset, and the files that it names, under a name; return its file.

    Args:
        name: with or without ".json".
        content: of the preset's file.
        files: name in the new folder -> file, for those that its options name.

    Raises:
        VlmHeadsError: a name that is taken or no file name, or a folder that cannot be written.
    """
    stem = name.removesuffix(".json")
    if not _NAME.fullmatch(stem):
        raise VlmHeadsError(f"a preset called {name!r}", "letters, digits, dots, dashes")
    target = presets_folder() / stem
    if target.exists():
        raise VlmHeadsError(
            f"a preset called {stem}.json is installed", "another --name", "or remove it first"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{stem}-", dir=target.parent) as temporary:
            new = Path(temporary) / "preset"
            new.mkdir()
            for inside, path in files.items():
                shutil.copyfile(path, new / inside)
            (new / PRESET).write_bytes(content)
            new.rename(target)
    except OSError as error:
        raise VlmHeadsError(f"{target} cannot be written ({error.strerror})") from error
    return target / PRESET


def remove_preset(name: str) -> None:
    """Delete a preset of the user.

    Raises:
        VlmHeadsError: there is none of that name, or it cannot be deleted.
    """
    found = user_presets()
    path = found.get(f"{name.removesuffix('.json')}.json")
    if path is None:
        raise VlmHeadsError(
            f"no installed preset is called {name!r}", f"one of {', '.join(found) or 'none'}"
        )
    try:
        shutil.rmtree(path.parent)
    except OSError as error:
        raise VlmHeadsError(f"{path.parent} cannot be deleted ({error.strerror})") from error
