from __future__ import annotations

from vlmheads_demo.services.methods import available_methods
from vlmheads_demo.views.picker import method_picker

from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 8, 8)


def test_the_picker_labels_every_field():
    page = method_picker("first", "Method", available_methods(GEOMETRY), "vhr")
    for method in available_methods(GEOMETRY):
        for control in method.controls:
            assert f'<label for="first-{method.name}-{control.name}">' in page
