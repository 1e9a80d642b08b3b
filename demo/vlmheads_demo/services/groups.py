"""Methods grouped by what they act on, and what is known about each in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads.recommended import recommended_for
from vlmheads.registry import read_preset
from vlmheads_demo.state import Model

# In the order in which they are offered.
GROUPS: Mapping[str, str] = {
    "heads": "Head outputs: scale or silence heads",
    "attention": "Attention rows: move attention",
    "hidden": "Hidden states: steer layers",
    "layers": "Layers read as words: mix or contrast them",
    "streams": "Extra streams: contrast with another input",
    "logits": "Logits: correct the scores of the next word",
    "cache": "Cache: edit what later words see",
    "vision": "Vision encoder: change what is seen",
    "other": "Other methods",
}
UNKNOWN = "nothing measured yet"


class Evidence(NamedTuple):
    """What is known about a method: a mark of one or two words, and a line."""

    mark: str
    line: str


def group_of(plugin: type[Plugin]) -> str:
    """Return the group of a method, from the hooks that it overrides and its default streams."""
    hooks = set(plugin.hooks())
    if "on_cache" in hooks:
        return "cache"
    if "on_heads" in hooks:
        return "heads"
    if _contrasts(plugin):
        return "streams"
    if {"on_hidden", "on_logits"} <= hooks:
        return "layers"
    if "on_attention" in hooks:
        return "attention"
    if "on_logits" in hooks:
        return "logits"
    if "on_hidden" in hooks:
        return "hidden"
    return "vision" if "on_vision" in hooks else "other"


def _contrasts(plugin: type[Plugin]) -> bool:
    """Whether a method has extra streams at its defaults, or may have where it refuses those."""
    if plugin.streams is Plugin.streams:
        return False
    try:
        return bool(plugin().streams)
    except (TypeError, VlmHeadsError):
        return True


def evidence_for(model: Model, name: str) -> Evidence:
    """Return what is known about a method on a model.

    On a test bench that is what was measured there; on any other model, what published captions or
    reports of LLaVA-1.5-7B say.
    """
    known = _known()
    lines = known.get(model.bench or "published", {})
    found = lines.get(name)
    if found is None:
        where = f"{model.name} was not measured" if model.packaged else "no captions were published"
        return Evidence(UNKNOWN, f"Nothing is known: {where} under it.")
    return Evidence(found["mark"], found["line"])


def recommended_evidence(model: Model) -> str:
    """Return the evidence of the preset that is recommended for a model; "" without one."""
    name = recommended_for(model.captioner.model).preset
    if name is None:
        return ""
    preset = read_preset(name)
    return preset.evidence.get("test") or next(iter(preset.evidence.values()), preset.source)


@cache
def _known() -> dict[str, dict[str, dict[str, str]]]:
    text = (files("vlmheads_demo") / "assets" / "evidence.json").read_text("utf-8")
    found: dict[str, dict[str, dict[str, str]]] = json.loads(text)
    return found
