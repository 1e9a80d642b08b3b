"""Options of a plugin: one kind each, checked when it is made and again when it meets a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlmheads.errors import VlmHeadsError

if TYPE_CHECKING:
    from vlmheads.model.geometry import Geometry

Kind = Literal[
    "int",
    "float",
    "bool",
    "choice",
    "text",
    "tokens",
    "indices",
    "layers",
    "heads",
    "head_map",
    "learned",
    "path",
    "any",
]
# Kinds whose text is the name of a file.
FILE_KINDS = ("head_map", "learned", "path")


def option(
    default: Any,
    help: str,  # noqa: A002
    *,
    kind: Kind | None = None,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    measures: tuple[str, ...] = (),
    method: str = "",
    tensors: Mapping[str, str] | None = None,
    needed_by: tuple[str, ...] = (),
    text: str = "",
    holds: type | None = None,
    convert: Callable[[Any], Any] | None = None,
) -> Any:
    """Declare one option of a plugin: its default, what it means and the values it may take.

    The kind says which values are accepted and what the plugin then holds:

    | kind | accepts | holds |
    | --- | --- | --- |
    | "int", "float" | a number from `low` to `high` | the number |
    | "bool" | true or false | the same |
    | "choice" | one of `choices` | the same |
    | "text" | text | the same |
    | "tokens" | a list of token ids | a tuple, in the same order |
    | "indices" | a list of whole numbers from 0 on | a sorted tuple |
    | "layers" | the same, of layers that the model has | a sorted tuple |
    | "heads" | pairs (layer, head), or text such as "16-29" | a sorted tuple of pairs |
    | "head_map" | a HeadMap, or the path of a saved one, of one of `measures` | the HeadMap |
    | "learned" | what `vlmheads learn` made for `method`, with `tensors`, or its file | it |
    | "path" | an object of the class `holds`, or the path of a file that its `load` reads | it |
    | "any" | anything | the same |

    None is accepted where it is the default.

    Args:
        default: the value when none is given.
        help: one line for people, shown by `vlmheads plugins`.
        kind: by default "choice" where there are choices, else that of the default: bool, int,
            float or text. A default of None takes numbers where there is a range; anything else
            is "any".
        low: the smallest allowed number, itself included.
        high: the largest allowed number, itself included.
        choices: the allowed values, where they can be listed.
        measures: the measures of head maps that the plugin understands; none is every measure.
        method: the method that an option of kind "learned" was learned for.
        tensors: what it holds, as `Learned.require` takes it.
        needed_by: options that do nothing without it; a model is refused where it is missing and
            one of them is not 0.
        text: what an option of kind "tokens" says by default, for callers that have a tokenizer; a
            plugin has none.
        holds: the class of an option of kind "path".
        convert: makes what the plugin holds of an accepted value; it may refuse the value.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "choices": choices,
        "kind": kind or _inferred(default, ranged=(low, high) != (None, None), choices=choices),
        "measures": measures,
        "method": method,
        "tensors": tensors or {},
        "needed_by": needed_by,
        "text": text,
        "holds": holds,
        "convert": convert,
    }
    return dataclasses.field(default=default, metadata=metadata)


def _inferred(default: Any, *, ranged: bool, choices: tuple[Any, ...]) -> Kind:
    """Return the kind of an option that names none."""
    if choices:
        return "choice"
    kinds: dict[type, Kind] = {bool: "bool", int: "int", float: "float", str: "text"}
    return kinds.get(type(default), "float" if ranged else "any")


def read_options(plugin: Any, name: str) -> dict[str, Any]:
    """Return the values that a plugin is to hold, by option.

    Args:
        plugin: a dataclass; fields that `option` did not declare are left alone.
        name: of the plugin, for errors.

    Raises:
        VlmHeadsError: a value that its option does not take.
    """
    return {
        field.name: _read(f"{name}: {field.name}", field, getattr(plugin, field.name))
        for field in dataclasses.fields(plugin)
        if "kind" in field.metadata
    }


def fit_options(plugin: Any, name: str, geometry: Geometry, *, attention: bool) -> None:
    """Refuse a model that the options of a plugin do not fit.

    Layers and heads have to be in the model, and a map or another measurement has to be of it. What
    has to be learned must not be missing.

    Args:
        plugin: a dataclass whose values `read_options` has read.
        name: of the plugin, for errors.
        geometry: of the model.
        attention: whether the plugin acts on attention heads, so that a layer that it names has to
            have some.

    Raises:
        VlmHeadsError: a value that does not fit, or one that is missing.
    """
    for field in dataclasses.fields(plugin):
        kind, value = field.metadata.get("kind"), getattr(plugin, field.name)
        what = f"{name}: {field.name}"
        if value is None:
            _refuse_missing(plugin, name, field)
        elif kind == "layers":
            geometry.check_layers(value, what, attention=attention)
        elif kind == "heads":
            geometry.check_heads(value, what)
        elif kind in FILE_KINDS and hasattr(value, "geometry"):
            geometry.require(value.geometry, f"{name}: {_called(field)}")


def _refuse_missing(plugin: Any, name: str, field: dataclasses.Field[Any]) -> None:
    """Refuse to go without what has to be learned, where another option needs it."""
    if any(getattr(plugin, key) for key in field.metadata.get("needed_by", ())):
        method = field.metadata["method"]
        raise VlmHeadsError(
            f"{name} without {field.name}, which has to be learned",
            f"what `vlmheads learn {method}` learned from this model, or its file",
            f"run `vlmheads learn {method} --model M --data DATA --out FILE`, and pass "
            f"{field.name}=FILE",
        )


def _called(field: dataclasses.Field[Any]) -> str:
    return "the head map" if field.metadata["kind"] == "head_map" else field.name


def _read(what: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """Check one value by its kind, and return what the plugin is to hold."""
    about = field.metadata
    if value is None and field.default is None:
        return None
    read = _READERS[about["kind"]](f"{what}={value!r}", value, about)
    return read if about["convert"] is None else about["convert"](read)


def _read_number(seen: str, value: Any, about: Mapping[str, Any]) -> Any:
    whole = about["kind"] == "int"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise VlmHeadsError(seen, "a whole number" if whole else "a number")
    low, high = about["low"], about["high"]
    lowest, highest = -math.inf if low is None else low, math.inf if high is None else high
    sane = abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)
    if not (sane and lowest <= value <= highest):
        noun = "a whole number" if whole else "a number"
        span = f" from {low:g}" if low is not None else ""
        span += f" to {high:g}" if high is not None else " on" if span else ""
        raise VlmHeadsError(seen, noun + span if span else "a finite number")
    return value


def _read_bool(seen: str, value: Any, about: Mapping[str, Any]) -> bool:
    if not isinstance(value, bool):
        raise VlmHeadsError(seen, "true or false")
    return value


def _read_choice(seen: str, value: Any, about: Mapping[str, Any]) -> Any:
    """Return the choice; 1 is not taken for true, nor 0 for false."""
    for choice in about["choices"]:
        if isinstance(choice, bool) == isinstance(value, bool) and choice == value:
            return choice
    raise VlmHeadsError(seen, f"one of {', '.join(map(repr, about['choices']))}")


def _read_text(seen: str, value: Any, about: Mapping[str, Any]) -> str:
    if not isinstance(value, str):
        raise VlmHeadsError(seen, "text")
    return value


def _read_tokens(seen: str, value: Any, about: Mapping[str, Any]) -> tuple[int, ...]:
    return _whole_numbers(seen, value, "a list of token ids")


def _read_indices(seen: str, value: Any, about: Mapping[str, Any]) -> tuple[int, ...]:
    noun = "layer indices" if about["kind"] == "layers" else "indices"
    expected = f"a list of {noun} from 0 on, such as [1, 30]"
    indices = _whole_numbers(seen, value, expected)
    if not indices:
        raise VlmHeadsError(seen, expected)
    return tuple(sorted(set(indices)))


def _whole_numbers(seen: str, value: Any, expected: str) -> tuple[int, ...]:
    listed = value if isinstance(value, (list, tuple, range)) else (None,)
    if any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in listed):
        raise VlmHeadsError(seen, expected)
    return tuple(listed)


def _read_heads(seen: str, value: Any, about: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    return pairs_of(seen, () if value is None else value)


def pairs_of(seen: str, heads: Any) -> tuple[tuple[int, int], ...]:
    """Return a list of heads as sorted pairs (layer, head).

    Args:
        seen: what the error says was found.
        heads: pairs of whole numbers, or text such as "16-29".

    Raises:
        VlmHeadsError: not a list of heads.
    """
    pairs = []
    for item in heads if isinstance(heads, (list, tuple)) else ["?"]:
        parts = item.split("-") if isinstance(item, str) else item
        pair = [f"{part}" for part in parts] if isinstance(parts, (list, tuple)) else []
        if len(pair) != 2 or not all(part.isdecimal() and len(part) < 10 for part in pair):
            raise VlmHeadsError(
                seen, 'a list of heads, layer and index, such as [[16, 29]] or ["16-29"]'
            )
        pairs.append((int(pair[0]), int(pair[1])))
    return tuple(sorted(set(pairs)))


def _read_head_map(seen: str, value: Any, about: Mapping[str, Any]) -> Any:
    # Loads torch, which plugins need and a list of options does not.
    from vlmheads.headmap import HeadMap

    found = _load(seen, value, HeadMap)
    what, measures = seen.partition("=")[0], about["measures"]
    if measures and found.measure not in measures:
        raise VlmHeadsError(
            f"{what}, a head map of {found.measure!r}",
            f"one of {', '.join(map(repr, measures))}",
            "measure one with `vlmheads detect --out`",
        )
    unknown = int(found.mean()[list(found.geometry.attention_layers)].isnan().sum())
    if unknown:
        raise VlmHeadsError(
            f"{what}, a head map of {found.measure!r} whose mean is not a number for {unknown} of "
            f"{found.geometry.layers * found.geometry.heads} heads",
            "a value for every head",
            "measure it again, or leave out the images that have no value",
        )
    return found


def _read_learned(seen: str, value: Any, about: Mapping[str, Any]) -> Any:
    # Loads torch, which plugins need and a list of options does not.
    from vlmheads.learned import Learned

    found = _load(seen, value, Learned)
    found.require(about["method"], about["tensors"])
    return found


def _read_path(seen: str, value: Any, about: Mapping[str, Any]) -> Any:
    holds: Any = about["holds"]
    if holds is None:
        if not isinstance(value, (str, Path)):
            raise VlmHeadsError(seen, "a path")
        return value
    return _load(seen, value, holds)


def _load(seen: str, value: Any, holds: Any) -> Any:
    if isinstance(value, (str, Path)):
        return holds.load(value)
    if not isinstance(value, holds):
        raise VlmHeadsError(seen, f"a {holds.__name__} object, or the path of a saved one")
    return value


_READERS: dict[Kind, Callable[[str, Any, Mapping[str, Any]], Any]] = {
    "int": _read_number,
    "float": _read_number,
    "bool": _read_bool,
    "choice": _read_choice,
    "text": _read_text,
    "tokens": _read_tokens,
    "indices": _read_indices,
    "layers": _read_indices,
    "heads": _read_heads,
    "head_map": _read_head_map,
    "learned": _read_learned,
    "path": _read_path,
    "any": lambda seen, value, about: value,
}
