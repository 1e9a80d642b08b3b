from __future__ import annotations

import dataclasses

import pytest
import tiny
from vlmheads_demo.services.methods import (
    available_methods,
    controls,
    parse_plugins,
    recommended_method,
    spec,
)

from vlmheads import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.registry import get_plugin

GEOMETRY = Geometry("llava", 8, 8)


def test_every_slider_has_the_range_and_the_default_of_its_option():
    for method in available_methods(GEOMETRY):
        fields = {field.name: field for field in dataclasses.fields(get_plugin(method.name))}
        for control in method.controls:
            if control.kind == "slider":
                about = fields[control.name].metadata
                assert (about["low"], about["high"]) == (control.low, control.high)
                assert fields[control.name].default == control.default
                assert about["help"] == control.help


def test_methods_that_need_a_file_are_not_offered():
    offered = {method.name for method in available_methods(GEOMETRY)}
    assert {"vhr", "var", "pai", "adhh", "zerotuning"} <= offered
    assert not {"gains", "vti"} & offered


def test_options_that_name_files_are_neither_offered_nor_accepted():
    assert "head_map" not in [control.name for control in controls(get_plugin("vhr"))]
    with pytest.raises(VlmHeadsError, match="maps and files cannot be set"):
        parse_plugins([{"name": "vhr", "options": {"head_map": "/etc/passwd"}}])


@pytest.mark.parametrize(
    "chosen",
    [
        "vhr",
        ["vhr"],
        [{"name": "vhr-llava15.json"}],
        [{"name": "../vhr"}],
        [{"name": "vhr", "path": "x"}],
        [{"name": "vhr", "options": {"alpha": 11}}],
        [{"name": "vhr", "options": {"alpha": "2"}}],
        [{"name": "vhr", "options": {"alpha": True}}],
        [{"name": "vhr", "options": {"layers": [0] * 300}}],
        [{"name": 3}],
        [None],
        [{"name": "vhr"}] * 5,
    ],
)
def test_what_is_not_a_method_is_refused(chosen):
    with pytest.raises(VlmHeadsError):
        parse_plugins(chosen)


def test_lists_are_parsed_as_people_type_them():
    (vhr,) = parse_plugins([{"name": "vhr", "options": {"layers": "1, 5"}}])
    (adhh,) = parse_plugins([{"name": "adhh", "options": {"heads": "3-5, 1-2"}}])
    assert vhr.layers == (1, 5)
    assert adhh.heads == ((1, 2), (3, 5))


def test_a_list_left_empty_is_the_default():
    assert parse_plugins([{"name": "vhr", "options": {"layers": ""}}]) == parse_plugins(
        [{"name": "vhr"}]
    )


def test_a_method_is_named_as_the_command_line_accepts_it():
    chosen = parse_plugins([{"name": "vhr", "options": {"alpha": 3, "layers": [1, 5]}}])
    assert spec(chosen) == "vhr:alpha=3,layers=[1, 5]"
    assert spec(()) == "plain"


def test_the_recommended_method_comes_with_its_options(model):
    network = model.captioner.model
    assert recommended_method(network) == {"name": "vcd", "options": {"alpha": 0.25}}
    assert recommended_method(tiny.build("llava")) is None
