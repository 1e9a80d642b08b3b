"""The contract of a method: options, and what it may do while a model generates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vlmheads.errors import VlmHeadsError

if TYPE_CHECKING:
    from torch import Tensor

    from vlmheads.model.geometry import Geometry
    from vlmheads.runtime.attention import Rows
    from vlmheads.runtime.request import Request
    from vlmheads.runtime.streams import Stream

HOOKS = ("on_prompt", "on_heads", "on_attention", "on_hidden", "on_logits")


def option(
    default: Any,
    help: str,  # noqa: A002
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
) -> Any:
    """Declare one option of a plugin: its default, what it means and the values it may take.

    Args:
        default: the value when none is given. An int or float default fixes the type.
        help: one line for people, shown by `vlmheads plugins`.
        low: the smallest allowed number, itself included.
        high: the largest allowed number, itself included.
        choices: the allowed values, where they can be listed.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Plugin:
    """Base of every method: a frozen dataclass of options whose hooks act on one generation.

    A subclass overrides only the hooks that it needs; only those are installed. It keeps nothing
    on itself: what belongs to one generation lives in `request.scratch(self)`. Tensors are never
    written in place; a hook that returns the tensor it was given changes nothing.

    Shapes: B rows of the running batch (beams included), S positions of this forward pass, H query
    heads, D head size, E model width, V vocabulary, K keys.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    # Names of sites that no second attached plugin may claim, such as "contrast".
    claims: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(self.name or type(self).__name__, field, getattr(self, field.name))

    @classmethod
    def neutral(cls) -> Self:
        """Return an instance under which the method does nothing, bit for bit."""
        raise NotImplementedError(f"{cls.__name__} does not say what its neutral options are")

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Extra streams that run in one batch with the main one, for this plugin to contrast."""
        return ()

    @property
    def whole_map(self) -> bool:
        """Whether `on_attention` needs every row of the prompt, at a cost quadratic in its length.

        Otherwise it is given the rows of text after the image alone.
        """
        return False

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse, with VlmHeadsError, a model that this plugin's options do not fit."""

    def on_prompt(self, request: Request) -> None:
        """Look at the prompt before its prefill; may run `request.text_only_forward(...)`."""

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Edit head outputs [B, S, H, D], those that the output projection is about to mix."""
        return heads

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Edit the attention of the last rows; see `vlmheads.runtime.attention.Rows`."""
        return rows

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Edit [B, S, E] at site "residual" (a layer's output) or "mlp" (its MLP's output)."""
        return hidden

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Edit the logits [B, V] of the next token; `request.streams[name]` holds the others."""
        return logits

    @classmethod
    def hooks(cls) -> tuple[str, ...]:
        """Names of the hooks that this class overrides."""
        return tuple(hook for hook in HOOKS if getattr(cls, hook) is not getattr(Plugin, hook))

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Make an instance from plain values.

        Raises:
            VlmHeadsError: an option that this plugin does not have, or a value out of its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise VlmHeadsError(
                f"{cls.name}: unknown option {', '.join(unknown)}",
                f"one of {', '.join(known) or 'no options'}",
                f"see `vlmheads plugins {cls.name}`",
            )
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values that `from_dict` takes."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    def describe(self) -> dict[str, Any]:
        """Return name and options for a record, as JSON has them; a map is told by its digest."""
        options = {key: _recorded(value) for key, value in self.to_dict().items()}
        return {"name": self.name, "options": options}


def _recorded(value: Any) -> Any:
    """Turn the value of an option into what JSON has."""
    if digest := getattr(value, "digest", None):
        return f"{type(value).__name__} {digest}"
    return value if isinstance(value, str | int | float | bool | list | None) else repr(value)


def _check(plugin: str, field: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a value outside of what its option declares."""
    low, high = field.metadata.get("low"), field.metadata.get("high")
    choices = field.metadata.get("choices")
    seen = f"{plugin}: {field.name}={value!r}"
    if choices:
        if value not in choices:
            raise VlmHeadsError(seen, f"one of {', '.join(map(repr, choices))}")
        return
    if isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise VlmHeadsError(seen, "true or false")
        return
    if low is None and high is None:
        return
    if value is None and field.default is None:
        return
    whole = isinstance(field.default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise VlmHeadsError(seen, "a whole number" if whole else "a number")
    lowest = -math.inf if low is None else low
    highest = math.inf if high is None else high
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise VlmHeadsError(seen, f"a number from {lowest:g} to {highest:g}")


def as_layers(plugin: str, layers: object) -> tuple[int, ...] | None:
    """Return a `layers` option as a sorted tuple of indices; None stays None.

    Raises:
        VlmHeadsError: not a non-empty list of whole numbers from 0 on.
    """
    if layers is None:
        return None
    if not isinstance(layers, (list, tuple, range)) or not layers:
        raise VlmHeadsError(
            f"{plugin}: layers={layers!r}", "a list of layer indices, such as [1, 30]"
        )
    if any(isinstance(index, bool) or not isinstance(index, int) or index < 0 for index in layers):
        raise VlmHeadsError(f"{plugin}: layers={layers!r}", "whole numbers from 0 on")
    return tuple(sorted(set(layers)))


def as_heads(plugin: str, heads: object, option_name: str = "heads") -> tuple[tuple[int, int], ...]:
    """Return an option that lists heads as sorted pairs (layer, head); None gives no pairs.

    A head is a pair of whole numbers, or text such as "16-29".

    Raises:
        VlmHeadsError: not a list of heads.
    """
    if heads is None:
        return ()
    pairs = []
    for item in heads if isinstance(heads, (list, tuple)) else ["?"]:
        parts = [*item.split("-")] if isinstance(item, str) else item
        pair = [f"{part}" for part in parts] if isinstance(parts, (list, tuple)) else []
        if len(pair) != 2 or not all(part.isdecimal() for part in pair):
            raise VlmHeadsError(
                f"{plugin}: {option_name}={heads!r}",
                'a list of heads, layer and index, such as [[16, 29]] or ["16-29"]',
            )
        pairs.append((int(pair[0]), int(pair[1])))
    return tuple(sorted(set(pairs)))
