"""The settings that each plugin offers to a search."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from active import OPTIONS, contract_plugins

from vlmheads.plugin import Plugin
from vlmheads.registry import list_plugins, resolve

# Kinds of options that a search is given beside the settings, since they are the model's own.
NEEDED = ("heads", "head_map", "learned", "tokens")
OWN = [name for name in contract_plugins() if name in list_plugins()]


def needed(plugin: type[Plugin]) -> dict[str, Any]:
    """What the plugin is refused without, of the tiny LLaVA."""
    kinds = {field.name: field.metadata["kind"] for field in fields(plugin)}
    given = OPTIONS.get(plugin.name, {}).items()
    return {
        key: value("llava") if callable(value) else value
        for key, value in given
        if kinds[key] in NEEDED
    }


@pytest.mark.parametrize("name", OWN)
def test_every_setting_constructs_and_is_not_neutral(name: str) -> None:
    plugin = contract_plugins()[name]
    neutral, made = plugin.neutral(), []
    for setting in plugin.search:
        options = {key: value for key, value in setting.items() if key != "with"}
        made.append(plugin.from_dict(needed(plugin) | options))
        assert made[-1] != neutral
        if "with" in setting:
            assert resolve(setting["with"])
    assert 2 <= len(made) <= 4
    told = [
        (one.describe(), setting.get("with"))
        for one, setting in zip(made, plugin.search, strict=True)
    ]
    assert len(set(map(repr, told))) == len(told), "the same setting twice"


@pytest.mark.parametrize("name", OWN)
def test_a_search_turns_few_options(name: str) -> None:
    plugin = contract_plugins()[name]
    turned = {key for setting in plugin.search for key in setting if key != "with"}
    assert turned <= {field.name for field in fields(plugin)}
    assert len(turned) <= 3
