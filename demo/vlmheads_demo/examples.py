"""Scenes to begin with, as a row of buttons."""

from __future__ import annotations

import json
from html import escape

from vlmheads_demo.drawing import address
from vlmheads_demo.scenes import SHOWN, example


def gallery() -> str:
    """Return the scenes that the page offers, and a button for any other."""
    buttons = "".join(_button(name) for name in SHOWN)
    another = escape(json.dumps({"scene": "random"}))
    return (
        '<div class="vh-gallery" role="group" aria-label="Scenes of the test bench">'
        f"{buttons}</div>"
        '<p class="vh-small">Scenes of the test bench, whose objects are known; the first four '
        "hold some of the wrong place. Its models know such drawings and nothing else. "
        f'<button type="button" class="vh-another" data-select="{another}">Another scene</button>'
        "</p>"
    )


def _button(name: str) -> str:
    drawn = example(name)
    label = f"{drawn.place} with {', '.join(sorted(drawn.objects))} ({name})"
    return (
        f'<button type="button" class="vh-scene" data-group="scene" aria-pressed="false" '
        f'data-select="{escape(json.dumps({"scene": name}))}" title="{escape(label)}" '
        f'aria-label="{escape(label)}"><img src="{address(drawn.image, "PNG")}" alt=""></button>'
    )
