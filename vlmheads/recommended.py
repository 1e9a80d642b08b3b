"""The setting recommended for a model: a preset whose evidence is about that very model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from vlmheads.digest import file_sha256
from vlmheads.entries import report
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import examine, unwrap
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin
from vlmheads.registry import Preset, list_presets, read_preset, resolve

AUTO = "auto"

_log = logging.getLogger("vlmheads")
# How a folder of the hub's cache names the model that it holds.
_SNAPSHOT = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+/?$")
_PLAIN = (
    "so captions are plain; `vlmheads tune` looks for a setting that helps, and a plugin that you "
    "name (--plugin, plugins=) acts all the same"
)
_LEARN = (
    "{name} has the best published evidence for it once something is learned: `vlmheads learn "
    "{learn} --model {model} --data DATA --out FILE`, then `vlmheads presets install {name} "
    "--learned FILE`"
)


@dataclass(frozen=True)
class Recommendation:
    """What is recommended for a model, and why.

    Args:
        preset: the name of a preset; None where plain captions are recommended.
        reason: one line for the reader.
    """

    preset: str | None
    reason: str


def recommended(source: str | Path, geometry: Geometry | None = None) -> Recommendation:
    """Return the preset whose evidence is about this model, if there is one.

    Presets of the user come before shipped ones, and the one added last first. A preset that
    names weights is for those alone, by size and SHA-256: what helps one checkpoint can harm
    another of the same family and geometry (docs/effect.md). One that names hub ids is for those.

    Args:
        source: the folder of a saved model, or a hub id.
        geometry: that of the model, where it is loaded; a preset for another one is passed over.
    """
    like, learnable = [], ""
    for name in list_presets():
        try:
            preset = read_preset(name)
        except VlmHeadsError as error:  # of another package, or for a plugin that is not there
            report(error)
            continue
        if not (preset.weights or preset.models):
            continue
        alike = geometry is not None and preset.geometry == geometry
        if preset.geometry is not None and geometry is not None and not alike:
            continue
        if (found := _match(preset, source)) and preset.learn:
            learnable = learnable or _LEARN.format(name=name, model=source, learn=preset.learn)
        elif found:
            told = "; ".join(f"{key}: {text}" for key, text in preset.evidence.items())
            return Recommendation(name, f"measured on {found}; {told or preset.source}")
        if alike:
            like.append(name)
    other = f" ({', '.join(like)}: for another model of its geometry)" if like else ""
    reason = f"no preset was measured on this model{other}, {_PLAIN}"
    return Recommendation(None, f"{reason}; {learnable}" if learnable else reason)


def recommended_for(model: Any) -> Recommendation:
    """Return what is recommended for a loaded model; see `recommended`.

    Weights are told by the folder or hub id that the model was loaded from.

    Raises:
        VlmHeadsError: not a model that can be attached to.
    """
    geometry = examine(model).geometry
    inner = unwrap(model)
    if getattr(model, "peft_config", None) or getattr(inner, "_hf_peft_config_loaded", False):
        return Recommendation(None, f"no preset was measured on this model's adapter, {_PLAIN}")
    name = getattr(inner, "name_or_path", "") or ""
    if not name:
        return Recommendation(None, f"this model was not loaded from anywhere, {_PLAIN}")
    return recommended(name, geometry)


def resolve_for(model: Any, plugins: str | Plugin | Iterable[str | Plugin]) -> tuple[Plugin, ...]:
    """Return plugin objects as `resolve` does; "auto" is what is recommended for the model.

    Where nothing is, there are no plugins, and a line on the log "vlmheads" says why.

    Raises:
        VlmHeadsError: what `resolve` refuses, or "auto" together with others.
    """
    given = (plugins,) if isinstance(plugins, (str, Plugin)) else tuple(plugins)
    if AUTO not in [one for one in given if isinstance(one, str)]:
        return resolve(given)
    if len(given) > 1:
        raise VlmHeadsError("plugin auto together with others", "either it or names of plugins")
    found = recommended_for(model)
    if found.preset is None:
        _log.warning("%s", found.reason)
        return ()
    return resolve(found.preset)


def _match(preset: Preset, source: str | Path) -> str:
    """Return what of a preset is that of a model; "" where nothing is."""
    if preset.weights:
        return "these weights" if all(_has(source, one) for one in preset.weights) else ""
    snapshot = _SNAPSHOT.search(str(source))
    name = "/".join(snapshot.groups()) if snapshot else str(source)
    return name if name in preset.models else ""


def _has(source: str | Path, wanted: Any) -> bool:
    """Whether a saved model has a file of that name, size and digest."""
    path: Path | None = Path(source) / wanted["file"]
    if not Path(source).is_dir():
        try:
            found = cached_file(str(source), wanted["file"], local_files_only=True)
        except (OSError, ValueError):
            return False
        path = Path(found) if found else None
    if path is None or not path.is_file() or path.stat().st_size != wanted["bytes"]:
        return False
    return file_sha256(path) == str(wanted["sha256"])
