from __future__ import annotations

import re

from vlmheads_demo.services.groups import GROUPS, group_of
from vlmheads_demo.services.methods import available_methods
from vlmheads_demo.views.picker import method_picker, picked_method, scene_gallery

from vlmheads.registry import get_plugin

CHOSEN = {"name": "vhr", "options": {"alpha": 3.5, "layers": [1, 5]}}


def test_the_picker_labels_every_field(model):
    page = method_picker("first", "Method", model, CHOSEN)
    for method in available_methods(model.geometry):
        for control in method.controls:
            assert f'<label for="first-{method.name}-{control.name}">' in page


def test_the_recommended_method_is_shown_with_its_options(model):
    page = method_picker("first", "Method", model, CHOSEN)
    assert '<option value="vhr" selected>vhr (recommended)</option>' in page
    assert page.count(" selected>vhr") == 1
    (shown,) = [part for part in page.split("<fieldset")[1:] if " hidden" not in part.split(">")[0]]
    assert 'data-method="vhr"' in shown
    assert 'data-default="2" id="first-vhr-alpha"' in shown
    assert ">3.5</output>" in shown
    assert 'value="1, 5"' in shown
    plain = method_picker("first", "Method", model)
    assert "(recommended)" not in plain
    assert picked_method(None) == "null"


def test_methods_stand_in_groups_each_with_what_is_known(model):
    page = method_picker("first", "Method", model)
    found = re.findall(r'<optgroup label="([^"]+)">(.*?)</optgroup>', page)
    assert [title for title, _ in found] == [t for t in GROUPS.values() if t in dict(found)]
    names = [name for _, inside in found for name in re.findall(r'value="(\w+)"', inside)]
    assert sorted(names) == [method.name for method in available_methods(model.geometry)]
    assert "dola: better" in page
    assert page.count('class="vh-evidence"') == len(names)
    # The first slider is the strength, and the one that others follow.
    assert page.count("data-strength ") > 20


def test_every_builtin_method_has_a_group_by_what_it_acts_on():
    expected = {
        "vhr": "heads", "spin": "heads", "pai": "attention", "var": "attention", "nullu": "hidden",
        "dola": "layers", "only": "layers", "vcd": "streams", "cfg": "streams", "sid": "streams",
        "cmac": "streams", "paint": "attention", "flb": "logits",
        "pti": "cache", "kvsmooth": "cache", "vti-visual": "vision",
    }  # fmt: skip
    assert expected == {name: group_of(get_plugin(name)) for name in expected}


def test_the_scene_that_is_described_at_first_is_pressed():
    page = scene_gallery("counterfactual:42")
    assert page.count('aria-pressed="true"') == 1
    assert "counterfactual:42" in page.split('aria-pressed="true"')[1].split(">")[0]
