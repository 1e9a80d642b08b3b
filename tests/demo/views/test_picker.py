from __future__ import annotations

from vlmheads_demo.services.methods import available_methods
from vlmheads_demo.views.picker import method_picker, picked_method

from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 8, 8)
CHOSEN = {"name": "vhr", "options": {"alpha": 3.5, "layers": [1, 5]}}


def test_the_picker_labels_every_field():
    page = method_picker("first", "Method", available_methods(GEOMETRY), CHOSEN)
    for method in available_methods(GEOMETRY):
        for control in method.controls:
            assert f'<label for="first-{method.name}-{control.name}">' in page


def test_the_recommended_method_is_shown_with_its_options():
    page = method_picker("first", "Method", available_methods(GEOMETRY), CHOSEN)
    assert '<option value="vhr" selected>vhr (recommended)</option>' in page
    assert page.count(" selected>vhr") == 1
    (shown,) = [part for part in page.split("<fieldset")[1:] if " hidden" not in part.split(">")[0]]
    assert 'data-method="vhr"' in shown
    assert 'data-default="2" id="first-vhr-alpha"' in shown
    assert ">3.5</output>" in shown
    assert 'value="1, 5"' in shown
    plain = method_picker("first", "Method", available_methods(GEOMETRY))
    assert "(recommended)" not in plain
    assert picked_method(None) == "null"
