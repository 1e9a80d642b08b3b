"""The inputs that visitors pick from: methods with their options, and scenes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vlmheads_demo.services.images import draw_scene
from vlmheads_demo.services.methods import Control, Method
from vlmheads_demo.views.theme import image_url

# The scenes that the page offers: objects in the wrong place, then typical scenes.
SCENES = (
    *("counterfactual:3", "counterfactual:7", "counterfactual:5", "counterfactual:2"),
    *("test:6", "test:3", "test:1", "test:0"),
)


def method_picker(
    name: str, label: str, offered: Sequence[Method], chosen: Mapping[str, Any] | None = None
) -> str:
    """Return a picker of one method and its options as HTML; `assets/picker.js` reads its values.

    Args:
        name: prefix of the ids of its fields.
        label: its label.
        offered: the methods to pick from.
        chosen: "name" and "options" of the method that is recommended, and picked at first.
    """
    picked = chosen["name"] if chosen else ""
    options = ['<option value="">none</option>'] + [
        f'<option value="{escape(method.name)}"{" selected" * (method.name == picked)}>'
        f"{escape(method.name)}{' (recommended)' * (method.name == picked)}</option>"
        for method in offered
    ]
    panels = "".join(
        _panel(name, method, chosen["options"] if chosen and method.name == picked else None)
        for method in offered
    )
    return (
        f'<div class="vh-picker"><label for="{name}-method">{escape(label)}</label>'
        f'<select id="{name}-method">{"".join(options)}</select>{panels}</div>'
    )


def picked_method(chosen: Mapping[str, Any] | None) -> str:
    """Return the value of a picker with a method and its options; None is no method."""
    return json.dumps(chosen)


def _panel(picker_name: str, method: Method, options: Mapping[str, Any] | None) -> str:
    """Return the fields of a method, shown with these options, or hidden with its defaults."""
    prefix, values = f"{picker_name}-{method.name}", options or {}
    sliders = [c for c in method.controls if c.kind == "slider"]
    others = [c for c in method.controls if c.kind != "slider"]
    fields = "".join(_field(prefix, c, values.get(c.name, c.default)) for c in sliders)
    rest = "".join(_field(prefix, c, values.get(c.name, c.default)) for c in others)
    if rest and fields:
        rest = f"<details><summary>more options</summary>{rest}</details>"
    paper = f'<p class="vh-paper">{escape(method.paper)} · {escape(method.cost)}</p>'
    return (
        f'<fieldset data-method="{escape(method.name)}"{" hidden" * (options is None)}>'
        f"<legend>{escape(method.title)}</legend>{paper}{fields}{rest}"
        '<button type="button" class="vh-reset" data-reset disabled>reset to defaults</button>'
        "</fieldset>"
    )


def _field(prefix: str, control: Control, chosen: Any) -> str:
    identity = f"{prefix}-{control.name}"
    about = (
        f'data-option="{control.name}" data-kind="{control.kind}" '
        f'data-default="{_json(_shown_default(control))}" id="{identity}" '
        f'aria-describedby="{identity}-help"'
    )
    value, end = "", ""
    if control.kind == "slider":
        entry = (
            f'<input type="range" {about} min="{control.low:g}" max="{control.high:g}" '
            f'step="{_step(control, chosen):g}" value="{chosen:g}">'
        )
        value = f'<output for="{identity}">{chosen:g}</output>'
        end = (
            f'<div class="vh-ends"><span>{control.low:g}</span><span>{control.high:g}</span></div>'
        )
    elif control.kind == "number":
        shown = "" if chosen is None else f"{chosen:g}"
        step = "1" if control.whole else "any"
        entry = (
            f'<input type="number" {about} min="{control.low:g}" max="{control.high:.10g}" '
            f'step="{step}" value="{shown}" placeholder="set by the model">'
        )
    elif control.kind == "switch":
        entry = f'<input type="checkbox" {about}{" checked" * bool(chosen)}>'
    elif control.kind == "choice":
        entry = f"<select {about}>{''.join(_choice(c, chosen) for c in control.choices)}</select>"
    else:
        shown = "" if chosen == control.default else escape(_listed(chosen))
        entry = (
            f'<input type="text" {about} value="{shown}" placeholder="default" autocomplete="off">'
        )
    return (
        f'<div class="vh-field vh-{control.kind}"><label for="{identity}">{escape(control.name)}'
        f'</label>{value}{entry}{end}<p id="{identity}-help">{escape(_help(control))}</p></div>'
    )


def _listed(values: Sequence[Any]) -> str:
    """Return a list as visitors type it: "1, 5, 6" or "16-29, 18-3"."""
    return ", ".join(
        "-".join(map(str, v)) if isinstance(v, tuple | list) else str(v) for v in values
    )


def _step(control: Control, chosen: float) -> float:
    """Return how far a key press moves a slider that can also stand where it is now."""
    from_low = chosen - (control.low or 0)
    steps = (control.step / parts for parts in (1, 2, 4, 5, 10, 20))
    fits = (step for step in steps if abs(from_low / step - round(from_low / step)) < 1e-6)
    return next(fits, control.step / 100)


def _choice(value: Any, chosen: Any) -> str:
    picked = " selected" if value is chosen or value == chosen else ""
    text = value if isinstance(value, str) else json.dumps(value)
    return f'<option value="{_json(value)}"{picked}>{escape(text)}</option>'


def _help(control: Control) -> str:
    """Return the help of an option, with its range unless a slider shows it."""
    if control.kind == "number":
        return f"{control.help} ({control.low:g} to {control.high:.10g})"
    if control.kind == "list":
        return (
            f"{control.help}; for example {'16-29, 18-3' if 'head' in control.help else '1, 5, 6'}"
        )
    return control.help


def _shown_default(control: Control) -> Any:
    """Return the default as the field shows it, so that changes can be detected."""
    if control.kind == "list":
        return ""
    if isinstance(control.default, float) and control.default.is_integer():
        return int(control.default)
    return control.default


def _json(value: Any) -> str:
    return escape(json.dumps(value))


def scene_gallery() -> str:
    """Return buttons for the scenes, and one for another scene at random."""
    buttons = "".join(_scene_button(name) for name in SCENES)
    another = escape(json.dumps({"scene": "random"}))
    return (
        '<div class="vh-gallery" role="group" aria-label="Scenes of the test bench">'
        f"{buttons}</div>"
        '<p class="vh-small">Scenes of the test bench, whose objects are known; the first four '
        "contain objects that do not belong there. The test-bench models know only such drawings. "
        f'<button type="button" class="vh-another" data-select="{another}">Another scene</button>'
        "</p>"
    )


def _scene_button(name: str) -> str:
    drawn = draw_scene(name)
    label = f"{drawn.place} with {', '.join(sorted(drawn.objects))} ({name})"
    return (
        f'<button type="button" class="vh-scene" data-group="scene" aria-pressed="false" '
        f'data-select="{escape(json.dumps({"scene": name}))}" title="{escape(label)}" '
        f'aria-label="{escape(label)}"><img src="{image_url(drawn.image, "PNG")}" alt=""></button>'
    )
