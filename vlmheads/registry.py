"""Find plugins and presets by name: built-ins and third parties come through the same entry points.

A preset is a JSON file of plugins with their options, and where its values come from.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin

GROUP = "vlmheads.plugins"
LIMIT = "VLMHEADS_PLUGINS"

SCHEMA = 1
# Each entry names a package whose JSON files are shipped presets.
PRESETS = "vlmheads.presets"
SUFFIX = ".json"

_OPTIONAL = {"note", "weights", "evidence"}
_KEYS = {"schema", "plugins", "family", "versions", "source", *_OPTIONAL}
_PLUGIN_KEYS = {"name", "options"}
_WEIGHTS_KEYS = {"file", "bytes", "sha256"}

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
            todo="fix or uninstall the package that provides it",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise VlmHeadsError(
            f"plugin {entry.name!r} ({entry.value}) is {found!r}",
            "a subclass of vlmheads.Plugin",
            "fix or uninstall the package that provides it",
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


@dataclass(frozen=True)
class Preset:
    """What a preset file holds.

    Args:
        plugins: in the order in which they act.
        family: the model family that the values were chosen for, or "any"; for the reader, since
            plugins themselves refuse a model that they do not fit.
        versions: versions of vlmheads, and of what else matters, that the file was written with.
        source: where the values come from: paper and section, or repository and file.
        note: what else the reader should know.
        weights: name, size in bytes and SHA-256 of the weights file of the one model that it was
            measured on, where it is a recommendation for that model.
        evidence: what was measured there: data, effect with interval, controls.
    """

    plugins: tuple[Plugin, ...]
    family: str
    versions: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    note: str = ""
    weights: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)


def load_preset(path: str | Path) -> list[Plugin]:
    """Return the plugins of a preset, which `attach` takes.

    >>> vlmheads.attach(model, vlmheads.load_preset("vhr-llava15.json"))

    Args:
        path: a file, or the name of a shipped preset; a file of that name comes first.

    Raises:
        VlmHeadsError: no such preset, an unknown or missing key, an unknown plugin, an option that
            the plugin does not have, or a value out of its range.
    """
    return list(read_preset(path).plugins)


def read_preset(path: str | Path) -> Preset:
    """Return everything that a preset file says; arguments and errors are those of `load_preset`.

    Names of files among the options are taken as they are, relative to the working directory.
    """
    about = _parse(_text(path), str(path))
    plugins = tuple(_plugin(item, f"{path}: plugin {n}") for n, item in enumerate(about["plugins"]))
    return Preset(
        plugins,
        about["family"],
        about["versions"],
        about["source"],
        about.get("note", ""),
        about.get("weights", {}),
        about.get("evidence", {}),
    )


def list_presets() -> list[str]:
    """Names of the shipped presets, in alphabetical order."""
    return sorted(_shipped())


def _shipped() -> dict[str, Any]:
    """Every shipped preset's file, by name."""
    return {
        file.name: file
        for entry in entry_points(group=PRESETS)
        for file in files(entry.value).iterdir()
        if file.name.endswith(SUFFIX)
    }


def _text(path: str | Path) -> str:
    """Read the file at `path`, or the shipped preset of that name."""
    if Path(path).is_file():
        return Path(path).read_text(encoding="utf-8")
    shipped = _shipped()
    name = str(path) if str(path).endswith(SUFFIX) else f"{path}{SUFFIX}"
    if name not in shipped:
        raise VlmHeadsError(
            f"no preset file {path}",
            f"a JSON file, or one of {', '.join(sorted(shipped)) or 'none'}",
            "check the name",
        )
    text: str = shipped[name].read_text(encoding="utf-8")
    return text


def _parse(text: str, name: str) -> dict[str, Any]:
    """Check the outer form of a preset: its keys and the kinds of their values."""
    try:
        about = json.loads(text)
    except ValueError as error:
        raise VlmHeadsError(f"{name} is not JSON ({error})", "a preset file") from error
    _check_keys(about, _KEYS, _OPTIONAL, name)
    if about["schema"] != SCHEMA:
        raise VlmHeadsError(
            f"{name} has schema {about['schema']!r}", f"schema {SCHEMA}", "upgrade vlmheads"
        )
    for key in ("family", "source", "note"):
        if key in about and not isinstance(about[key], str):
            raise VlmHeadsError(f"{name}: {key}={about[key]!r}", "text")
    for key in ("versions", "evidence"):
        found = about.get(key, {})
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise VlmHeadsError(f"{name}: {key}={found!r}", "names, and text for each")
    weights = about.get("weights", {})
    if weights:
        _check_keys(weights, _WEIGHTS_KEYS, set(), f"{name}: weights")
    if not isinstance(about["plugins"], list) or not about["plugins"]:
        raise VlmHeadsError(f"{name}: plugins={about['plugins']!r}", "a list of at least one")
    checked: dict[str, Any] = about
    return checked


def _plugin(item: Any, where: str) -> Plugin:
    """Make one plugin from its entry in a preset."""
    _check_keys(item, _PLUGIN_KEYS, {"options"}, where)
    options = item.get("options", {})
    if not isinstance(options, dict):
        raise VlmHeadsError(f"{where}: options={options!r}", "option names and values")
    if not isinstance(item["name"], str):
        raise VlmHeadsError(f"{where}: name={item['name']!r}", "the name of a plugin")
    return get_plugin(item["name"]).from_dict(options)


def _check_keys(value: Any, known: set[str], optional: set[str], where: str) -> None:
    """Refuse what is not an object, has keys besides the known ones, or lacks one."""
    if not isinstance(value, dict):
        raise VlmHeadsError(f"{where}: {value!r}", f"an object with {', '.join(sorted(known))}")
    unknown = sorted(set(value) - known)
    missing = sorted(known - optional - set(value))
    if unknown or missing:
        seen = [f"unknown key {key!r}" for key in unknown]
        seen += [f"no key {key!r}" for key in missing]
        raise VlmHeadsError(
            f"{where}: {', '.join(seen)}", f"the keys {', '.join(sorted(known))}", "fix the file"
        )
