"""Find plugins and presets by name: built-ins and third parties come through the same entry points.

A preset is a JSON file of plugins with their options, and where its values come from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vlmheads.entries import FIX, LIMIT, called, installed, load_entry, report, working
from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads.schema import decode, read_bytes

SCHEMA = 1
# Each entry names a package whose JSON files are shipped presets.
PRESETS = "vlmheads.presets"
SUFFIX = ".json"
LONGEST_VALUE = 1 << 16  # Characters of a plugin with its options, as text.


def list_plugins() -> list[str]:
    """Names of the installed plugins that can be loaded, in alphabetical order.

    A plugin that cannot be imported is reported on the log "vlmheads" and left out.
    """
    names = []
    for name, entry in sorted(installed().items()):
        try:
            load(entry)
        except VlmHeadsError as error:
            report(error)
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
    found = load_entry(entry)
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise VlmHeadsError(f"{called(entry)} is {found!r}", "a subclass of vlmheads.Plugin", FIX)
    return found


def parse_plugin(text: str) -> Plugin:
    """Make a plugin from text such as "vhr" or "vhr:alpha=1.5,layers=[1,30]".

    Values are JSON where they parse as it, else text.

    Raises:
        VlmHeadsError: unknown plugin or option, text that is not name:key=value,..., or a value
            out of its range.
    """
    if len(text) > LONGEST_VALUE:
        raise VlmHeadsError(f"a plugin of {len(text):,} characters", f"at most {LONGEST_VALUE:,}")
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in _split(rest):
        key, equals, value = part.partition("=")
        if not equals:
            raise VlmHeadsError(f"plugin {text!r}: {part!r}", "key=value", "such as vhr:alpha=1.5")
        try:
            options[key.strip()] = msgspec.json.decode(value)
        except RecursionError as error:
            raise VlmHeadsError(f"plugin {name!r}: {key} is nested too deeply") from error
        except ValueError:  # msgspec's errors, and text that is not UTF-8
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
    about: _PresetFile = decode(_content(path), _PresetFile, str(path), "a preset file")
    if about.schema != SCHEMA:
        raise VlmHeadsError(
            f"{path} has schema {about.schema}", f"schema {SCHEMA}", "upgrade vlmheads"
        )
    plugins = tuple(get_plugin(one.name).from_dict(one.options) for one in about.plugins)
    weights = {} if about.weights is None else msgspec.to_builtins(about.weights)
    return Preset(
        plugins, about.family, about.versions, about.source, about.note, weights, about.evidence
    )


def list_presets() -> list[str]:
    """Names of the shipped presets, in alphabetical order."""
    return sorted(_shipped())


def _shipped() -> dict[str, Any]:
    """Every shipped preset's file, by name; a package that cannot be imported is left out."""
    found = {}
    for entry, package in working(PRESETS):
        try:
            listed = list(files(package).iterdir())
        except Exception as error:  # not a package, or one without files
            report(VlmHeadsError(f"{called(entry)} holds no files ({error})", todo=FIX))
            continue
        found.update({file.name: file for file in listed if file.name.endswith(SUFFIX)})
    return found


def _content(path: str | Path) -> bytes:
    """Read the file at `path`, or the shipped preset of that name."""
    if Path(path).is_file():
        return read_bytes(Path(path), "a preset file")
    shipped = _shipped()
    name = str(path) if str(path).endswith(SUFFIX) else f"{path}{SUFFIX}"
    if name not in shipped:
        raise VlmHeadsError(
            f"no preset file {path}",
            f"a JSON file, or one of {', '.join(sorted(shipped)) or 'none'}",
            "check the name",
        )
    content: bytes = shipped[name].read_bytes()
    return content


class _PluginEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One plugin of a preset file."""

    name: str
    options: dict[str, Any] = {}


class _Weights(msgspec.Struct, forbid_unknown_fields=True):
    """The weights file that a preset was measured on."""

    file: str
    bytes: int
    sha256: str


class _PresetFile(msgspec.Struct, forbid_unknown_fields=True):
    """The form of a preset file; see `Preset`."""

    schema: int
    plugins: Annotated[list[_PluginEntry], msgspec.Meta(min_length=1)]
    family: str
    versions: dict[str, str]
    source: str
    note: str = ""
    weights: _Weights | None = None
    evidence: dict[str, str] = {}
