"""Find plugins and presets by name: built-ins and third parties come through the same entry points.

A preset is a JSON file of plugins with their options, and where its values come from.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from vlmheads.entries import FIX, LIMIT, called, installed, load_entry, report, working
from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.options import FILE_KINDS
from vlmheads.plugin import Plugin
from vlmheads.preset_file import PluginEntry, PresetFile
from vlmheads.schema import decode, read_bytes
from vlmheads.user_presets import add_preset, user_presets

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
        weights: name, size in bytes and SHA-256 of each file of weights (or of another file that
            tells them) of the one model that it was measured on, where it is a recommendation for
            that model.
        models: hub ids of the models that it was measured on, where weights are not known.
        geometry: that of those models.
        evidence: what was measured there: data, effect with interval, controls.
        learn: what `vlmheads learn` has to learn from a model before the preset can act on it; ""
            where nothing.
    """

    plugins: tuple[Plugin, ...]
    family: str
    versions: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    note: str = ""
    weights: tuple[Mapping[str, Any], ...] = ()
    models: tuple[str, ...] = ()
    geometry: Geometry | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    learn: str = ""


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

    Names of files among the options are looked for next to the preset's file, then as they are,
    relative to the working directory.
    """
    content, folder = _content(path)
    about: PresetFile = decode(content, PresetFile, str(path), "a preset file")
    if about.schema != SCHEMA:
        raise VlmHeadsError(
            f"{path} has schema {about.schema}", f"schema {SCHEMA}", "upgrade vlmheads"
        )
    return Preset(
        plugins=tuple(_plugin(one, folder) for one in about.plugins),
        family=about.family,
        versions=about.versions,
        source=about.source,
        note=about.note,
        weights=tuple(msgspec.to_builtins(one) for one in about.weights),
        models=tuple(about.models),
        geometry=None
        if about.geometry is None
        else Geometry(*msgspec.structs.astuple(about.geometry)),
        evidence=about.evidence,
        learn=about.learn,
    )


def list_presets() -> list[str]:
    """Names of the presets: those of the user, the one added last first; shipped ones by name."""
    return [*user_presets(), *shipped_presets()]


def shipped_presets() -> list[str]:
    """Names of the presets that installed packages bring along, in alphabetical order."""
    return sorted(_shipped())


def install_preset(path: str | Path, name: str = "", learned: str | Path | None = None) -> str:
    """Keep a preset for the models that it names, so that "auto" finds it; return its name.

    Files that its options name are kept with it.

    Args:
        path: the preset's file, or the name of a shipped one.
        name: what to call it; by default as the file.
        learned: what `vlmheads learn` wrote, for a preset that needs it.

    Raises:
        VlmHeadsError: what `read_preset` refuses, a preset that names no model, one that needs
            something learned without it or the other way round, or a name that is taken.
    """
    preset = read_preset(path)
    if not (preset.weights or preset.models):
        raise VlmHeadsError(
            f"{path} names no model that it was measured on", "weights, or models (hub ids)"
        )
    if bool(preset.learn) != (learned is not None):
        todo = f"learn it with `vlmheads learn {preset.learn} --model MODEL --data DATA --out FILE`"
        raise VlmHeadsError(
            f"{path} {'without' if preset.learn else 'with'} a learned file",
            "one" if preset.learn else "none: it needs nothing learned",
            f"{todo}, and pass --learned FILE" if preset.learn else "",
        )
    content, folder = _content(path)
    stem = Path(path).name.removesuffix(SUFFIX) + ("-learned" if learned else "")
    kept_as = f"{(name or stem).removesuffix(SUFFIX)}{SUFFIX}"
    if kept_as in _shipped():
        raise VlmHeadsError(f"a shipped preset is called {kept_as}", "another --name")
    about: PresetFile = decode(content, PresetFile, str(path))
    if learned is not None:
        about.learn = ""
        for one in about.plugins:
            missing = [key for key, kind in _kinds(one).items() if kind == "learned"]
            one.options |= {key: str(Path(learned).resolve()) for key in missing}
            get_plugin(one.name).from_dict(one.options)  # It refuses a file of another method.
    files: dict[str, Path] = {}
    for number, one in enumerate(about.plugins):
        for key, file in _files(one, folder).items():
            inside = f"{number}-{key}{file.suffix}"
            files[inside], one.options[key] = file, inside
    add_preset(kept_as, msgspec.json.format(msgspec.json.encode(about)), files)
    return kept_as


def _kinds(entry: PluginEntry) -> dict[str, Any]:
    """Return the kind of each option of a plugin in a preset."""
    return {f.name: f.metadata.get("kind") for f in dataclasses.fields(get_plugin(entry.name))}


def _plugin(entry: PluginEntry, folder: Path | None) -> Plugin:
    """Make one plugin of a preset, whose files may lie next to it."""
    files = {key: str(file) for key, file in _files(entry, folder).items()}
    return get_plugin(entry.name).from_dict(entry.options | files)


def _files(entry: PluginEntry, folder: Path | None) -> dict[str, Path]:
    """Return the files that options of a plugin in a preset name, by option."""
    kinds = _kinds(entry)
    found = {}
    for key, value in entry.options.items():
        if kinds.get(key) in FILE_KINDS and isinstance(value, str):
            near = folder / value if folder is not None else Path(value)
            found[key] = near if near.is_file() else Path(value)
    return {key: file for key, file in found.items() if file.is_file()}


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


def _content(path: str | Path) -> tuple[bytes, Path | None]:
    """Read the file at `path`, or the preset of that name; return it and the folder it lies in."""
    name = str(path) if str(path).endswith(SUFFIX) else f"{path}{SUFFIX}"
    users = user_presets()
    file = Path(path) if Path(path).is_file() else users.get(name)
    if file is not None:
        return read_bytes(file, "a preset file"), file.parent
    shipped = _shipped()
    if name not in shipped:
        raise VlmHeadsError(
            f"no preset file {path}",
            f"a JSON file, or one of {', '.join([*users, *sorted(shipped)]) or 'none'}",
            "check the name",
        )
    content: bytes = shipped[name].read_bytes()
    return content, None
