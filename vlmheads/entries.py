"""What other packages bring along, found by entry points; a broken one never takes others down."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.printable import one_line

PLUGINS = "vlmheads.plugins"
LIMIT = "VLMHEADS_PLUGINS"
FIX = "fix or uninstall the package that provides it"

_log = logging.getLogger("vlmheads")


def installed(group: str = PLUGINS) -> dict[str, EntryPoint]:
    """Entry points of `group` by name; plugins are limited by VLMHEADS_PLUGINS where it is set.

    VLMHEADS_PLUGINS is a comma-separated list of names; set but empty, it allows none.
    """
    found = {entry.name: entry for entry in sorted(entry_points(group=group), key=_name)}
    limit = os.environ.get(LIMIT)
    if limit is None or group != PLUGINS:
        return found
    allowed = {name.strip() for name in limit.split(",") if name.strip()}
    return {name: entry for name, entry in found.items() if name in allowed}


def load_entry(entry: EntryPoint) -> Any:
    """Import what an entry point names.

    Raises:
        VlmHeadsError: the import fails in whatever way, `sys.exit` included.
    """
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # a third party's module may do anything
        raise VlmHeadsError(
            f"{called(entry)} cannot be imported: {type(error).__name__}: {one_line(error)}",
            todo=FIX,
        ) from error


def working(group: str) -> Iterator[tuple[EntryPoint, Any]]:
    """Yield what can be imported of a group, in the order of names; say of the rest why it cannot.

    The rest is reported on the log "vlmheads".
    """
    for entry in installed(group).values():
        try:
            yield entry, load_entry(entry)
        except VlmHeadsError as error:
            report(error)


def report(error: VlmHeadsError) -> None:
    """Say on the log "vlmheads" why something that is installed is left out."""
    _log.warning("%s", one_line(error))


def called(entry: EntryPoint) -> str:
    """Return what errors call an entry point: its kind, name and place."""
    kind = entry.group.rpartition(".")[2].removesuffix("s")
    return f"{kind} {entry.name!r} ({entry.value})"


def _name(entry: EntryPoint) -> str:
    return entry.name
