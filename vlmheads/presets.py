"""Presets: plugins with their options in a JSON file, and where its values come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads.registry import get_plugin

SCHEMA = 1
# Each entry names a package whose JSON files are shipped presets.
GROUP = "vlmheads.presets"
SUFFIX = ".json"

_KEYS = {"schema", "plugins", "family", "versions", "source", "note"}
_OPTIONAL = {"note"}
_PLUGIN_KEYS = {"name", "options"}


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
    """

    plugins: tuple[Plugin, ...]
    family: str
    versions: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    note: str = ""


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
        plugins, about["family"], about["versions"], about["source"], about.get("note", "")
    )


def list_presets() -> list[str]:
    """Names of the shipped presets, in alphabetical order."""
    return sorted(_shipped())


def _shipped() -> dict[str, Any]:
    """Every shipped preset's file, by name."""
    return {
        file.name: file
        for entry in entry_points(group=GROUP)
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
    versions = about["versions"]
    if not isinstance(versions, dict) or not all(isinstance(v, str) for v in versions.values()):
        raise VlmHeadsError(f"{name}: versions={versions!r}", "names and versions as text")
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
            f"{where}: {', '.join(seen)}", f"the keys {', '.join(sorted(known))}", "mend the file"
        )
