"""The contract of a method: what it may do while a model generates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vlmheads.errors import VlmHeadsError
from vlmheads.options import fit_options, option, read_options

if TYPE_CHECKING:
    from torch import Tensor

    from vlmheads.gains.folds import Fold
    from vlmheads.model.geometry import Geometry
    from vlmheads.runtime.attention import Rows
    from vlmheads.runtime.request import Request
    from vlmheads.runtime.streams import Stream

__all__ = ["HOOKS", "Plugin", "option"]

HOOKS = (
    *("on_prompt", "on_vision", "on_cache", "on_attention", "on_heads", "on_hidden"),
    "on_logits",
)


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
    # The few settings that a search tries: options beside the defaults, and beside heads, maps,
    # tokens and learned files, which are the model's own. Under the key "with", a setting may name
    # plugins to attach after it, as `attach` takes them.
    search: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    def __post_init__(self) -> None:
        name = self.name or type(self).__name__
        for key, value in read_options(self, name).items():
            object.__setattr__(self, key, value)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for key, needed in self.idle_options().items():
            if getattr(self, key) != defaults[key]:
                raise VlmHeadsError(
                    f"{name}: {key}={getattr(self, key)!r} has no effect", f"it with {needed}"
                )

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

    def idle_options(self) -> Mapping[str, str]:
        """Options that have no effect beside the others, and what they would need to have one.

        One of them that is not left at its default is refused when the plugin is made. A strength
        that is turned to nothing makes no option idle: it is the end of a range that people sweep.
        """
        return {}

    def fit(self, geometry: Geometry) -> None:
        """Refuse a model that the options do not fit: by their kinds, then by `on_attach`.

        Raises:
            VlmHeadsError: layers or heads that the model does not have, a map of another model, or
                whatever the method itself refuses.
        """
        hooks = self.hooks()
        attention = "on_attention" in hooks or "on_heads" in hooks
        fit_options(self, self.name or type(self).__name__, geometry, attention=attention)
        self.on_attach(geometry)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse, with VlmHeadsError, what the kinds of the options cannot tell of a model."""

    def fold(self, geometry: Geometry) -> Fold | None:
        """Return the change of a model's weights that does what this plugin does, if there is one.

        `vlmheads bake` asks for it. None: the plugin does not do the same at every position of
        every prompt, as most.
        """
        return None

    def on_prompt(self, request: Request) -> None:
        """Look at the prompt before its prefill.

        It may run `request.text_only_forward(...)`, `request.image_forward(...)` and
        `request.probe(...)`, and ask for `request.image_inputs()`.
        """

    def on_vision(self, request: Request, block: int, hidden: Tensor) -> Tensor:
        """Edit the states [N, P, Ev] after a block of the vision tower, before the prefill.

        N pictures or tiles of P positions, or one sequence of all of them where the tower runs on
        such; `request.patches` says where they lie, and `request.vision_mlp` is what the block's
        MLP gave. Each picture stands there once, also with beams. Extra streams see the pictures
        unedited. generate() has encoded the pictures by then, so that the tower runs a second time;
        what it gives is used only where something was edited.
        """
        return hidden

    def on_cache(
        self, request: Request, layer: int, keys: Tensor, values: Tensor, new: int
    ) -> tuple[Tensor, Tensor]:
        """Edit what a layer attends by: keys [B, Hkv, K, D], rotated, and values [B, Hkv, K, Dv].

        The last `new` of the K positions are those of this forward pass. The edit is returned, as
        everywhere: tensors of the same shape, or the very ones that were given. It stays in the
        cache. In the prefill the row of the last prompt token sees it and no other row does, so
        that keys and values of deeper layers are those of the plain model up to that row; a decoded
        token's row sees it, too. A sliding window hands out what it still holds. Rows of the batch
        without an image are never edited.

        An edit is refused where it could not be kept or seen by the right rows: no cache, a static,
        quantised or offloaded one, a layer that caches something else than it attends by, several
        tokens per step (prompt lookup); layers that share the cache of others at attach already.
        """
        return keys, values

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Edit the attention of the last rows; see `vlmheads.runtime.attention.Rows`."""
        return rows

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Edit head outputs [B, S, H, D], those that the output projection is about to mix."""
        return heads

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Edit [B, S, E] at a site of a layer; `request.entering` is what went into the part.

        Sites, in order: "attention", what the output projection of attention gives, before it is
        added to the residual stream; "mlp", what the MLP gives; "residual", the layer's output.
        """
        return hidden

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Edit the logits [B, V] of the next token; `request.streams[name]` holds the others.

        The logits processors of generate() run afterwards: penalties, bans, minimum lengths,
        constraints. They compose with logits that keep three things, as those of all built-in
        methods do:

        * level: the logsumexp of the logits that were given, since a repetition penalty multiplies
          negative logits and divides positive ones;
        * order: what a method excludes is lowered by a finite amount, below everything that it
          keeps and so far that it is never sampled beside it, in the order of the logits that were
          given. Minus infinity leaves nothing to choose where a ban forbids all that is kept;
        * precision: edited logits may be float32 whatever the model runs in, as generate() makes
          them anyway, and should be where they are differences.
        """
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
