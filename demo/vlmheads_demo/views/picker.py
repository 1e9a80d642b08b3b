"""The inputs that visitors pick from: methods with their options, and scenes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vlmheads.registry import get_plugin
from vlmheads_demo.services.examples import SCENES
from vlmheads_demo.services.groups import GROUPS, evidence_for, group_of, recommended_evidence
from vlmheads_demo.services.images import draw_scene
from vlmheads_demo.services.methods import Control, Method, available_methods
from vlmheads_demo.services.strengths import strength_option
from vlmheads_demo.state import Model
from vlmheads_demo.views.theme import image_url

# Controls of a method that are shown without being asked for.
SHOWN_CONTROLS = 1


def method_picker(
    name: str, label: str, model: Model, chosen: Mapping[str, Any] | None = None
) -> str:
    """Return a picker of one method and its options as HTML; `assets/picker.js` reads its values.

    Methods stand in groups by what they act on, each with what is known about it on this model.

    Args:
        name: prefix of the ids of its fields.
        label: its label.
        model: the model, whose methods are offered.
        chosen: "name" and "options" of the method that is recommended, and picked at first.
    """
    offered = available_methods(model.geometry)
    picked = chosen["name"] if chosen else ""
    panels = "".join(
        _panel(name, method, model, chosen["options"] if chosen and method.name == picked else None)
        for method in offered
    )
    return (
        f'<div class="vh-picker"><label for="{name}-method">{escape(label)}</label>'
        f'<select id="{name}-method">{_options(offered, model, picked)}</select>{panels}</div>'
    )


def _options(offered: Sequence[Method], model: Model, picked: str) -> str:
    """Return the methods as options: the recommended one first, then group by group."""
    marks = {method.name: evidence_for(model, method.name).mark for method in offered}
    parts = ['<option value="">none</option>']
    if picked:
        parts.append(
            f'<optgroup label="Recommended for {escape(model.name)}"><option '
            f'value="{escape(picked)}" selected>{escape(picked)} (recommended)</option></optgroup>'
        )
    groups = {method.name: group_of(get_plugin(method.name)) for method in offered}
    for group, title in GROUPS.items():
        inside = "".join(
            f'<option value="{escape(method.name)}">{escape(method.name)}: '
            f"{escape(marks[method.name])}</option>"
            for method in offered
            if groups[method.name] == group and method.name != picked
        )
        if inside:
            parts.append(f'<optgroup label="{escape(title)}">{inside}</optgroup>')
    return "".join(parts)


def picked_method(chosen: Mapping[str, Any] | None) -> str:
    """Return the value of a picker with a method and its options; None is no method."""
    return json.dumps(chosen)


def _panel(
    picker_name: str, method: Method, model: Model, options: Mapping[str, Any] | None
) -> str:
    """Return the fields of a method, shown with these options, or hidden with its defaults."""
    prefix, values = f"{picker_name}-{method.name}", options or {}
    strength = strength_option(method.name)
    first = [c for c in method.controls if c.name == strength]
    if not first:
        first = [c for c in method.controls if c.kind == "slider"][:SHOWN_CONTROLS]
    others = [c for c in method.controls if c not in first]

    def fields(found: Sequence[Control]) -> str:
        return "".join(
            _field(prefix, c, values.get(c.name, c.default), c.name == strength) for c in found
        )

    rest = f'<p class="vh-paper">{escape(method.paper)}. Cost: {escape(method.cost)}.</p>'
    rest += fields(others)
    rest += '<button type="button" class="vh-reset" data-reset disabled>reset to defaults</button>'
    known = evidence_for(model, method.name).line
    if options is not None and (told := recommended_evidence(model)):
        known = f"Measured on {model.name}: {told}."
    return (
        f'<fieldset data-method="{escape(method.name)}"{" hidden" * (options is None)}>'
        f"<legend>{escape(method.title)}</legend>"
        f'<p class="vh-evidence" title="{escape(known)}">{escape(known)}</p>'
        f"{fields(first)}<details><summary>options, paper and cost</summary>{rest}</details>"
        "</fieldset>"
    )


def _field(prefix: str, control: Control, chosen: Any, strength: bool) -> str:
    identity = f"{prefix}-{control.name}"
    about = (
        f'{"data-strength " * strength}data-option="{control.name}" data-kind="{control.kind}" '
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


def scene_gallery(chosen: str = "") -> str:
    """Return buttons for the scenes, and one for another scene at random.

    Args:
        chosen: the name of the scene that is selected at first.
    """
    buttons = "".join(_scene_button(name, name == chosen) for name in SCENES)
    another = escape(json.dumps({"scene": "random"}))
    return (
        '<div class="vh-gallery" role="group" aria-label="Scenes of the test bench">'
        f"{buttons}</div>"
        '<p class="vh-small vh-scenes-note">Drawn scenes whose objects are known; in the first '
        f'four some do not belong. <button type="button" class="vh-another" '
        f'data-select="{another}">Another scene</button></p>'
    )


def _scene_button(name: str, chosen: bool) -> str:
    drawn = draw_scene(name)
    label = f"{drawn.place} with {', '.join(sorted(drawn.objects))} ({name})"
    return (
        '<button type="button" class="vh-scene" data-group="scene" '
        f'aria-pressed="{str(chosen).lower()}" '
        f'data-select="{escape(json.dumps({"scene": name}))}" title="{escape(label)}" '
        f'aria-label="{escape(label)}"><img src="{image_url(drawn.image, "PNG")}" alt=""></button>'
    )
