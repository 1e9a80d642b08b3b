"""The user's cache folder, filled so that an interruption never leaves half a model."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

#: Left-over folders of interrupted calls are removed once they are this old, in seconds.
STALE = 3600.0


def cache_folder() -> Path:
    """Return where models are kept: ``$XDG_CACHE_HOME/vlmheads``, usually ``~/.cache/vlmheads``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "vlmheads"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return the folder ``target``; where it is not there, ``build`` fills a new one first.

    It is filled beside the target and renamed when it is whole, so that whoever finds the target
    finds all of it. Interrupted or failing calls leave nothing; a killed one leaves a hidden
    folder, which a later call removes. Of two calls at once, the first to end wins.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        build(new)
        try:
            new.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return target


def _remove_stale(target: Path) -> None:
    for left in target.parent.glob(f".{target.name}-*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
