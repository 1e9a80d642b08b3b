"""Which options of a plugin the page offers, and plugins made of what a visitor chose.

Everything is read off the registry. An option is offered where a plain control can set it: a number
with its range, one of a few choices, a switch, or a short list of numbers. Options that hold maps
or name files are not: a visitor must not make the server read a file.
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
from vlmheads.registry import get_plugin, list_plugins

PLAIN = "plain"
MOST_METHODS = 4
LONGEST_LIST = 256
# A range wider than this is typed, not slid: one pixel of a slider would be too coarse.
WIDEST_SLIDER = 100

Kind = Literal["slider", "number", "choice", "switch", "list"]


@dataclasses.dataclass(frozen=True)
class Control:
    """One option of a plugin as the page offers it.

    Args:
        name: of the option.
        kind: what sets it.
        default: the value when the visitor leaves it alone.
        help: one line for people.
        low: the smallest number.
        high: the largest number.
        whole: whether the number is a whole one.
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
    """One plugin as the page offers it.

    Args:
        name: of the plugin.
        title: the first line of its documentation.
        paper: where it comes from.
        cost: what it costs.
        controls: its options, as far as they can be offered.
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
def methods(geometry: Geometry) -> tuple[Method, ...]:
    """Return the installed plugins that the page can set up, in alphabetical order.

    One that refuses to act as it is, and has no list of heads or layers that could be typed, waits
    for a file and is left out.

    Args:
        geometry: of the model at hand.
    """
    found = (_method(name) for name in list_plugins())
    return tuple(method for method in found if not _waits_for_file(method, geometry))


def _waits_for_file(method: Method, geometry: Geometry) -> bool:
    if any(control.kind == "list" for control in method.controls):
        return False
    try:
        get_plugin(method.name)().on_attach(geometry)
    except VlmHeadsError:
        return True
    return False


def _method(name: str) -> Method:
    plugin = get_plugin(name)
    title = (inspect.getdoc(plugin) or "").partition("\n")[0]
    return Method(name, title, plugin.paper, plugin.cost, controls(plugin))


def controls(plugin: type[Plugin]) -> tuple[Control, ...]:
    """Return the options of a plugin that the page can set."""
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
    kind: Kind = "slider" if high - low <= WIDEST_SLIDER and field.default is not None else "number"
    return Control(kind=kind, low=low, high=high, whole=whole, **about)


def plugins_of(chosen: Sequence[Mapping[str, Any]]) -> tuple[Plugin, ...]:
    """Make the plugins of one method from what a visitor sent.

    Args:
        chosen: for each plugin its "name" and "options", in the order in which they act.

    Raises:
        VlmHeadsError: something else, an unknown plugin, an option that is not offered, or a value
            out of its range.
    """
    if not isinstance(chosen, Sequence) or isinstance(chosen, str) or len(chosen) > MOST_METHODS:
        raise VlmHeadsError(f"methods {_short(chosen)}", f"a list of at most {MOST_METHODS}")
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
            f"one of {', '.join(offered) or 'none'} (maps and files are not taken from the page)",
        )
    return plugin.from_dict(
        {option: _value(name, offered[option], value) for option, value in options.items()}
    )


def _value(plugin: str, control: Control, value: Any) -> Any:
    """Bring what JSON holds into the type of the option: 2 for 2.0, a list from its text."""
    if control.kind in ("slider", "number"):
        if value in (None, ""):
            return control.default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise VlmHeadsError(f"{plugin}: {control.name}={_short(value)}", "a number")
        return int(value) if control.whole and float(value).is_integer() else value
    if control.kind == "list":
        return _listed(plugin, control, value)
    return value


def _listed(plugin: str, control: Control, value: Any) -> Any:
    """Read a list: JSON, or text such as "1, 5, 6" or "16-29, 18-3"."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
        value = [int(part) if part.isdecimal() else part for part in value]
    if value in (None, [], ()):
        return control.default
    if not isinstance(value, list | tuple) or len(value) > LONGEST_LIST:
        raise VlmHeadsError(
            f"{plugin}: {control.name}={_short(value)}", f"a list of at most {LONGEST_LIST}"
        )
    return list(value)


def spec(plugins: Sequence[Plugin]) -> str:
    """Return plugins as the text that the command line takes, such as "vhr:alpha=1.5"."""
    return " + ".join(_spec(plugin) for plugin in plugins) or PLAIN


def _spec(plugin: Plugin) -> str:
    changed = {
        f.name: plugin.to_dict()[f.name]
        for f in dataclasses.fields(plugin)
        if getattr(plugin, f.name) != f.default
    }
    options = ",".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in changed.items()
    )
    return f"{plugin.name}:{options}" if options else plugin.name


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
