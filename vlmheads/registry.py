"""Find plugins by name: built-ins and third parties come through the same entry points."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin

GROUP = "vlmheads.plugins"
LIMIT = "VLMHEADS_PLUGINS"

_log = logging.getLogger("vlmheads")


def installed(group: str = GROUP) -> dict[str, EntryPoint]:
    """Entry points of `group` by name; plugins are limited by VLMHEADS_PLUGINS where it is set.

    VLMHEADS_PLUGINS is a comma-separated list of names; set but empty, it allows none.
    """
    found = {entry.name: entry for entry in entry_points(group=group)}
    limit = os.environ.get(LIMIT)
    if limit is None or group != GROUP:
        return found
    allowed = {name.strip() for name in limit.split(",") if name.strip()}
    return {name: entry for name, entry in found.items() if name in allowed}


def list_plugins() -> list[str]:
    """Names of the installed plugins that can be loaded, in alphabetical order.

    A plugin that cannot be imported is reported on the log "vlmheads" and left out.
    """
    names = []
    for name, entry in sorted(installed().items()):
        try:
            load(entry)
        except VlmHeadsError as error:
            _log.warning("%s", error)
        else:
            names.append(name)
    return names


def get_plugin(name: str) -> type[Plugin]:
    """Return the plugin class of that name.

    Raises:
        VlmHeadsError: no such plugin is installed or allowed, or it is broken.
    """
    entries = installed()
    if name not in entries:
        limited = f" ({LIMIT} limits what is loaded)" if LIMIT in os.environ else ""
        raise VlmHeadsError(
            f"no plugin is called {name!r}",
            f"one of {', '.join(sorted(entries)) or 'none'}{limited}",
            "see `vlmheads plugins`",
        )
    return load(entries[name])


def load(entry: EntryPoint) -> type[Plugin]:
    """Import what an entry point names and check that it is a plugin.

    Raises:
        VlmHeadsError: the import fails, for whatever reason, or gives something else.
    """
    try:
        found = entry.load()
    except Exception as error:  # a third party's module may fail in any way
        raise VlmHeadsError(
            f"plugin {entry.name!r} ({entry.value}) cannot be imported: "
            f"{type(error).__name__}: {error}",
            todo="mend or uninstall the package that provides it",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise VlmHeadsError(
            f"plugin {entry.name!r} ({entry.value}) is {found!r}",
            "a subclass of vlmheads.Plugin",
            "mend or uninstall the package that provides it",
        )
    return found


def parse_plugin(text: str) -> Plugin:
    """Make a plugin from text such as "vhr" or "vhr:alpha=1.5,layers=[1,30]".

    Values are JSON where they parse as it, else text.

    Raises:
        VlmHeadsError: unknown plugin or option, text that is not name:key=value,..., or a value
            out of its range.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in _split(rest):
        key, equals, value = part.partition("=")
        if not equals:
            raise VlmHeadsError(f"plugin {text!r}: {part!r}", "key=value", "such as vhr:alpha=1.5")
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value
    return get_plugin(name.strip()).from_dict(options)


def _split(text: str) -> list[str]:
    """Split at commas; those inside of brackets belong to a value."""
    parts = [""]
    for character in text:
        if character == "," and parts[-1].count("[") == parts[-1].count("]"):
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part]


def resolve(plugins: str | Plugin | Iterable[str | Plugin]) -> tuple[Plugin, ...]:
    """Return plugin objects for names, plugins and presets, one or several, in the given order.

    Text that ends in ".json" and sets no option is a preset: a file, or the name of a shipped one.

    Raises:
        VlmHeadsError: something else than a name or a plugin object is among them.
    """
    given = (plugins,) if isinstance(plugins, (str, Plugin)) else tuple(plugins)
    found: list[Plugin] = []
    for item in given:
        if isinstance(item, str) and item.endswith(".json") and "=" not in item:
            # A preset is read by a module that needs this one.
            from vlmheads.presets import load_preset

            found += load_preset(item)
            continue
        if isinstance(item, str):
            item = parse_plugin(item)
        if not isinstance(item, Plugin):
            raise VlmHeadsError(
                f"{item!r} among the plugins", "a name or a Plugin object", "such as 'vhr' or VHR()"
            )
        found.append(item)
    return tuple(found)
