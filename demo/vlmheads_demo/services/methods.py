"""The plugin options that visitors can set, and the plugins that their choices make.

Everything comes from the registry. An option is offered where a simple control can set it: a number
in a range, one of a few choices, a switch, or a short list of numbers. Options that hold maps or
file names are not offered, because a visitor must not make the server read a file.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin
from vlmheads.recommended import recommended_for
from vlmheads.registry import get_plugin, list_plugins, load_preset

PLAIN = "plain"
MAX_PLUGINS = 4
# Kinds of options that a visitor can type in place of a file.
TYPED = ("heads", "tokens")
MAX_LIST_LENGTH = 256
# A wider range gets a number field: one pixel of a slider would be too coarse a step.
MAX_SLIDER_RANGE = 100

Kind = Literal["slider", "number", "choice", "switch", "list"]


@dataclasses.dataclass(frozen=True)
class Control:
    """The control that sets one option of a plugin.

    Args:
        name: the option.
        kind: the kind of control.
        default: the value if the visitor does not set it.
        help: one line of help.
        low: the smallest number.
        high: the largest number.
        whole: whether the number has to be an integer.
        choices: the values of a choice.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def step(self) -> float:
        """How far one key press moves a slider: a hundredth of its range, rounded to 1, 2 or 5."""
        if self.whole or self.low is None or self.high is None:
            return 1
        span = (self.high - self.low) / 100
        size = 10.0 ** math.floor(math.log10(span) + 1e-9)
        steps = (round(size * factor, 9) for factor in (1, 2, 5, 10))
        return next(step for step in steps if step >= span * (1 - 1e-9))


@dataclasses.dataclass(frozen=True)
class Method:
    """A plugin that visitors can choose.

    Args:
        name: the plugin.
        title: the first line of its documentation.
        paper: the paper that it comes from.
        cost: its cost in time.
        controls: the options that can be set.
    """

    name: str
    title: str
    paper: str
    cost: str
    controls: tuple[Control, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return dataclasses.asdict(self)


@cache
def available_methods(geometry: Geometry) -> tuple[Method, ...]:
    """Return the installed plugins that visitors can use, in alphabetical order.

    A plugin that refuses its defaults, and has no list of heads or tokens that a visitor could
    type, needs a file and is left out.

    Args:
        geometry: layers and heads of the model.
    """
    found = (_method(name) for name in list_plugins())
    return tuple(method for method in found if not _needs_file(method, geometry))


def _needs_file(method: Method, geometry: Geometry) -> bool:
    plugin = get_plugin(method.name)
    if any(f.metadata.get("kind") in TYPED for f in dataclasses.fields(plugin)):
        return False
    try:
        plugin().fit(geometry)
    except VlmHeadsError:
        return True
    return False


def _method(name: str) -> Method:
    plugin = get_plugin(name)
    title = (inspect.getdoc(plugin) or "").partition("\n")[0]
    return Method(name, title, plugin.paper, plugin.cost, controls(plugin))


def controls(plugin: type[Plugin]) -> tuple[Control, ...]:
    """Return the options of a plugin that visitors can set."""
    found = (_control(field) for field in dataclasses.fields(plugin))
    return tuple(control for control in found if control is not None)


def _control(field: dataclasses.Field[Any]) -> Control | None:
    default = None if field.default is dataclasses.MISSING else field.default
    about = {"name": field.name, "default": default, "help": field.metadata.get("help", "")}
    low, high = field.metadata.get("low"), field.metadata.get("high")
    choices = field.metadata.get("choices") or ()
    if choices:
        return Control(kind="choice", choices=tuple(choices), **about)
    if isinstance(default, bool):
        return Control(kind="switch", **about)
    if low is not None and high is not None:
        return _numeric(about, field, float(low), float(high))
    if isinstance(default, tuple) or str(field.type).startswith("tuple["):
        return Control(kind="list", **about)
    return None


def _numeric(
    about: dict[str, Any], field: dataclasses.Field[Any], low: float, high: float
) -> Control:
    whole = isinstance(field.default, int) or "int" in str(field.type)
    kind: Kind = (
        "slider" if high - low <= MAX_SLIDER_RANGE and field.default is not None else "number"
    )
    return Control(kind=kind, low=low, high=high, whole=whole, **about)


def kind_of(value: object) -> str:
    """Return what a JSON value is called, for errors."""
    names = {str: "text", bool: "boolean", int: "number", float: "number", list: "list"}
    return names.get(type(value), "JSON object" if isinstance(value, Mapping) else "null value")


def parse_methods(methods: Any) -> tuple[tuple[Plugin, ...], ...]:
    """Make the plugins of several methods from the JSON that a visitor sent.

    Raises:
        VlmHeadsError: not a list, or what `parse_plugins` refuses.
    """
    if not isinstance(methods, Sequence) or isinstance(methods, str):
        raise VlmHeadsError(f"methods that are a {kind_of(methods)}", 'such as [[{"name": "vhr"}]]')
    return tuple(parse_plugins(method) for method in methods)


def parse_plugins(chosen: Sequence[Mapping[str, Any]]) -> tuple[Plugin, ...]:
    """Make the plugins of one method from the JSON that a visitor sent.

    Args:
        chosen: the "name" and "options" of each plugin, in the order in which they act.

    Raises:
        VlmHeadsError: another shape, an unknown plugin, an option that is not offered, or a value
            out of its range.
    """
    if not isinstance(chosen, Sequence) or isinstance(chosen, str) or len(chosen) > MAX_PLUGINS:
        raise VlmHeadsError(f"methods {_short(chosen)}", f"a list of at most {MAX_PLUGINS}")
    return tuple(_plugin(item) for item in chosen)


def _plugin(item: Any) -> Plugin:
    if not isinstance(item, Mapping) or set(item) - {"name", "options"}:
        raise VlmHeadsError(f"method {_short(item)}", 'such as {"name": "vhr", "options": {}}')
    name, options = item.get("name"), item.get("options") or {}
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise VlmHeadsError(f"method {_short(item)}", 'such as {"name": "vhr", "options": {}}')
    plugin = get_plugin(name)
    offered = {control.name: control for control in controls(plugin)}
    unknown = [option for option in options if option not in offered]
    if unknown:
        raise VlmHeadsError(
            f"{name}: option {_short(unknown[0])}",
            f"one of {', '.join(offered) or 'none'} (maps and files cannot be set here)",
        )
    return plugin.from_dict(
        {option: _value(name, offered[option], value) for option, value in options.items()}
    )


def _value(plugin: str, control: Control, value: Any) -> Any:
    """Convert a JSON value to the type of the option: 2 for 2.0, a list from text."""
    if control.kind in ("slider", "number"):
        if value in (None, ""):
            return control.default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise VlmHeadsError(f"{plugin}: {control.name}={_short(value)}", "a number")
        return int(value) if control.whole and float(value).is_integer() else value
    if control.kind == "list":
        return _parse_list(plugin, control, value)
    return value


def _parse_list(plugin: str, control: Control, value: Any) -> Any:
    """Read a list from JSON, or from text such as "1, 5, 6" or "16-29, 18-3"."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
        value = [int(part) if part.isdecimal() else part for part in value]
    if value in (None, [], ()):
        return control.default
    if not isinstance(value, list | tuple) or len(value) > MAX_LIST_LENGTH:
        raise VlmHeadsError(
            f"{plugin}: {control.name}={_short(value)}", f"a list of at most {MAX_LIST_LENGTH}"
        )
    return list(value)


def recommended_method(model: Any) -> dict[str, Any] | None:
    """Return the name and options of the method recommended for a loaded model, if there is one.

    None, too, for a preset of several plugins or with options that visitors cannot set.
    """
    preset = recommended_for(model).preset
    plugins = load_preset(preset) if preset else []
    if len(plugins) != 1:
        return None
    (plugin,) = plugins
    options = _changed(plugin)
    if set(options) - {control.name for control in controls(type(plugin))}:
        return None
    return {"name": plugin.name, "options": options}


def spec(plugins: Sequence[Plugin]) -> str:
    """Return plugins as the command line accepts them, such as "vhr:alpha=1.5"."""
    return " + ".join(_spec(plugin) for plugin in plugins) or PLAIN


def _changed(plugin: Plugin) -> dict[str, Any]:
    """Return the options of a plugin that are not left at their defaults, as plain values."""
    fields = (f for f in dataclasses.fields(plugin) if getattr(plugin, f.name) != f.default)
    return {f.name: plugin.to_dict()[f.name] for f in fields}


def _spec(plugin: Plugin) -> str:
    options = ",".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in _changed(plugin).items()
    )
    return f"{plugin.name}:{options}" if options else plugin.name


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
