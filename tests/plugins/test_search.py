"""The settings that each plugin offers to a search."""

from __future__ import annotations

from dataclasses import fields

import pytest
from active import contract_plugins

from vlmheads.registry import list_plugins, resolve

OWN = [name for name in contract_plugins() if name in list_plugins()]


@pytest.mark.parametrize("name", OWN)
def test_every_setting_constructs_and_is_not_neutral(name: str) -> None:
    plugin = contract_plugins()[name]
    assert 1 <= len(plugin.search) <= 4
    made = []
    for setting in plugin.search:
        options = {key: value for key, value in setting.items() if key != "with"}
        made.append(plugin.from_dict(options))
        assert resolve(setting.get("with", ())) == () or "with" in setting
    neutral = plugin.neutral()
    assert all(one != neutral for one in made)
    described = [(one, setting.get("with")) for one, setting in zip(made, plugin.search)]
    assert len(set(map(repr, described))) == len(described), "the same setting twice"


@pytest.mark.parametrize("name", OWN)
def test_a_search_turns_few_options(name: str) -> None:
    plugin = contract_plugins()[name]
    turned = {key for setting in plugin.search for key in setting if key != "with"}
    assert turned <= {field.name for field in fields(plugin)}
    assert len(turned) <= 3
