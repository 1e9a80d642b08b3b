"""Forward passes for measuring: under a probe, teacher-forced, or replayed with gains on heads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vlmheads.detect.attending import AllRows, attention_edited, own_values
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attachment import attach, refuse_attached

# What a head gives where its factor is 0.
Towards = Literal["zero", "identity"]
# Inputs as wide as the prompt that are no token types.
_SAME = ("attention_mask", "input_ids", "qformer_input_ids", "qformer_attention_mask")


def prefill(model: Any, inputs: Mapping[str, Any], probe: Plugin) -> Anatomy:
    """Run a prompt through the model once, with a probe attached that keeps what it measures.

    Args:
        model: a transformers model for image-text-to-text generation; plugins that are attached
            to it act.
        inputs: what a processor made of images and text.
        probe: a plugin that only reads.

    Raises:
        VlmHeadsError: a model that cannot be attached to, or no image in any prompt.
    """
    given = {name: value for name, value in inputs.items() if name != "labels"}
    with attach(model, probe) as attachment:
        anatomy = attachment.anatomy
        require_images(anatomy, given)
        if "logits_to_keep" in inspect.signature(anatomy.model.forward).parameters:
            given["logits_to_keep"] = 1
        attachment.model(**given, use_cache=False)
    return anatomy


def require_images(anatomy: Anatomy, inputs: Mapping[str, Any]) -> None:
    """Refuse prompts of which none holds an image.

    Raises:
        VlmHeadsError: no image token in any row, or no token ids at all.
    """
    ids = inputs.get("input_ids")
    if ids is None or not bool(anatomy.is_visual(ids).any()):
        raise VlmHeadsError(
            "prompts without any image", "at least one image token", "pass what the processor made"
        )


def layered(found: Iterable[tuple[int, Tensor]], geometry: Geometry) -> Tensor:
    """Lay what was found in each layer, [N, heads], out as [N, L, H].

    A layer without heads holds no number; one with fewer heads than others, 0 in their place.
    """
    parts = dict(found)
    rows = len(next(iter(parts.values())))
    values = torch.zeros(rows, geometry.layers, geometry.heads)
    for layer, part in parts.items():
        values[:, layer, : part.shape[1]] = part.cpu()
    values[:, list(geometry.bare_layers)] = torch.nan
    return values


def after_end(tokens: Tensor, end: int | list[int] | None) -> Tensor:
    """[N, T] True after a row's first end token."""
    if end is None:
        return torch.zeros_like(tokens, dtype=torch.bool, device="cpu")
    is_end = torch.isin(tokens, torch.tensor(end, device=tokens.device)).int()
    return (is_end.cumsum(dim=1) - is_end > 0).cpu()


def refuse_beams(generate: Mapping[str, Any]) -> None:
    """Refuse generations that do not produce one token per row and step.

    Raises:
        VlmHeadsError: beams, whose rows change places, or several tokens per step.
    """
    for name in ("num_beams", "prompt_lookup_num_tokens", "assistant_model"):
        if generate.get(name, 1) not in (1, None):
            raise VlmHeadsError(
                f"{name}={generate[name]!r}",
                "greedy search or sampling, one token per step",
                "leave it unset",
            )


def teacher_forced(anatomy: Anatomy, inputs: Mapping[str, Any], targets: Tensor) -> dict[str, Any]:
    """Return inputs with the target tokens [N, T] appended to the prompts.

    The position that predicts target t is t - T - 1, counted from the end.

    Raises:
        VlmHeadsError: targets that are no [N, T] of token ids.
    """
    ids: Tensor = inputs["input_ids"]
    if targets.ndim != 2 or len(targets) != len(ids) or not targets.shape[1]:
        raise VlmHeadsError(
            f"targets of shape {list(targets.shape)}", f"[{len(ids)}, tokens], as many for each"
        )
    targets = targets.to(ids)
    given = {name: value for name, value in inputs.items() if name != "labels"}
    mask = given.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    for name, value in inputs.items():
        # Token types: a prompt may attend in both directions, the answer after it does not.
        if isinstance(value, Tensor) and value.shape == ids.shape and name not in _SAME:
            added = value.new_full(targets.shape, anatomy.family.answer_type)
            given[name] = torch.cat([value, added], dim=1)
    given["input_ids"] = torch.cat([ids, targets], dim=1)
    given["attention_mask"] = torch.cat([mask, mask.new_ones(targets.shape)], dim=1)
    if anatomy.family.inner:  # padding may stand between the image and the text
        given["position_ids"] = (given["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    return given


def marks(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a mark as booleans of the expected shape.

    Raises:
        VlmHeadsError: another shape.
    """
    if tuple(value.shape) != shape:
        raise VlmHeadsError(f"{name} of shape {list(value.shape)}", f"{list(shape)}")
    return value.bool()


def on_columns(name: str, marked: Tensor, count: int, visual: Tensor) -> Tensor:
    """Lay marks of image tokens [N, count, P], in their order, out on the columns of prompts.

    Args:
        name: of the marks, for errors.
        marked: True where the P-th image token of a prompt is marked; P is the number of image
            tokens of the prompt that has most.
        count: how many sets of marks each prompt has.
        visual: [N, S] True on image tokens.

    Returns:
        [N, count, S].

    Raises:
        VlmHeadsError: another shape.
    """
    given = marks(name, marked, (len(visual), count, int(visual.sum(dim=1).max())))
    number = (visual.cumsum(dim=1) - 1).clamp(min=0)[:, None].expand(-1, count, -1)
    return given.gather(2, number) & visual[:, None]


@dataclass(frozen=True, eq=False)
class Replay:
    """What a decoder was given in one forward pass, to be run again without the image encoder.

    Args:
        anatomy: the parts of the model.
        args: positional arguments of the decoder.
        kwargs: its keyword arguments.
        rows: N, the prompts of the batch.
    """

    anatomy: Anatomy
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: int

    @classmethod
    def of(cls, model: Any, inputs: Mapping[str, Any]) -> Replay:
        """Run a model once and keep what its text decoder is given.

        Raises:
            VlmHeadsError: a model that could not be attached to, or one with plugins attached.
        """
        anatomy = examine(model)
        refuse_attached(anatomy)
        given: dict[str, Any] = dict(inputs)
        if "logits_to_keep" in inspect.signature(anatomy.model.forward).parameters:
            given["logits_to_keep"] = 1
        kept: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        hook = anatomy.decoder.register_forward_pre_hook(
            lambda _, args, kwargs: kept.append((args, kwargs)), with_kwargs=True
        )
        with hook, torch.no_grad():
            anatomy.model(**given, use_cache=False)
        args, kwargs = kept[0]
        return cls(anatomy, args, kwargs, len(given["input_ids"]))

    def log_probabilities(
        self, targets: Tensor, gains: Tensor, towards: Towards = "zero"
    ) -> Tensor:
        """Log-probability of each target token, under gains on the head outputs.

        Args:
            targets: [N, T] the last tokens of the prompts.
            gains: [K * N, L, H] factors, for K copies of the batch one after the other.
            towards: what a head with a factor g gives in place of its output o: g o ("zero"), or
                g o + (1 - g) v with v its own value at each position ("identity").

        Returns:
            [K * N, T], float32 or more.
        """
        return self.read(self.states(gains, towards), targets)

    def swept(self, targets: Tensor, sets: Tensor, rows: int, towards: Towards = "zero") -> Tensor:
        """Log-probabilities [K, N, T] of target tokens [N, T] under each of K sets of gains.

        Args:
            targets: the last tokens of the prompts.
            sets: [K, L, H] factors.
            rows: rows of a batch, at least N.
            towards: see `log_probabilities`.
        """
        size = max(1, rows // self.rows)
        found = []
        for start in range(0, len(sets), size):
            gains = sets[start : start + size].to(targets.device).repeat_interleave(self.rows, 0)
            part = self.log_probabilities(targets, gains, towards)
            found.append(part.reshape(-1, *targets.shape))
        return torch.cat(found)

    def read(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities [K * N, T] of target tokens [N, T] by last states [K * N, S, E]."""
        count = targets.shape[1]
        logits = self.anatomy.unembed(hidden[:, -count - 1 : -1], norm=False)
        found = at_least_float32(logits).log_softmax(dim=-1)
        repeated = targets.to(found.device).repeat(len(hidden) // self.rows, 1)
        return found.gather(-1, repeated[..., None])[..., 0]

    def states(self, gains: Tensor, towards: Towards = "zero") -> Tensor:
        """Last states [K * N, S, E] of the decoder, with head outputs under gains [K * N, L, H]."""
        copies = len(gains) // self.rows
        if towards == "identity":
            with attention_edited(self.anatomy, partial(_mix, gains)):
                return self.run(copies)

        def scale(layer: int, heads: Tensor) -> Tensor:
            factors = gains[:, layer, : heads.shape[2]].to(heads)
            return heads * factors[:, None, :, None]

        return self.states_under(scale, copies)

    def states_under(self, edit: Callable[[int, Tensor], Tensor], copies: int = 1) -> Tensor:
        """Last states [K * N, S, E] of the decoder under an edit of head outputs.

        Args:
            edit: is given a layer and its head outputs [K * N, S, H, D], and returns the same.
            copies: K, of the batch, one after the other.
        """

        def before(layer: int, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (edit(layer, self.anatomy.split_heads(layer, args[0])).flatten(2), *args[1:])

        with ExitStack() as stack:
            for layer, projection in enumerate(self.anatomy.projections):
                if projection is not None:
                    hook = projection.register_forward_pre_hook(partial(before, layer))
                    stack.enter_context(hook)
            return self.run(copies)

    def run(self, copies: int = 1) -> Tensor:
        """Last states [copies * N, S, E] of the decoder, on copies of the batch in a row."""
        args, kwargs = (_repeated(part, copies, self.rows) for part in (self.args, self.kwargs))
        states: Tensor = self.anatomy.decoder(*args, **kwargs).last_hidden_state
        return states

    def heads(self) -> dict[int, Tensor]:
        """Run the decoder once; the head outputs [N, S, H, D] of each layer that has heads."""
        found: dict[int, Tensor] = {}

        def keep(layer: int, heads: Tensor) -> Tensor:
            found[layer] = heads.detach()
            return heads

        self.states_under(keep)
        return found


def one_by_one(geometry: Geometry, factor: float) -> tuple[list[tuple[int, int]], Tensor]:
    """Every head (layer, head), and gains [K, L, H] that multiply it alone by a factor."""
    every = [(layer, head) for layer in geometry.attention_layers for head in range(geometry.heads)]
    sets = torch.ones(len(every), geometry.layers, geometry.heads)
    for index, (layer, head) in enumerate(every):
        sets[index, layer, head] = factor
    return every, sets


def _mix(
    gains: Tensor, layer: int, values: Tensor, _: AllRows, plain: Callable[[], Tensor]
) -> Tensor:
    """Head outputs [B, S, H, D] mixed with each position's own value, by gains [B, L, H]."""
    heads = plain()
    factors = gains[:, layer, : heads.shape[2]].to(heads)[:, None, :, None]
    return factors * heads + (1 - factors) * own_values(values, heads.shape[2]).to(heads)


def _repeated(value: Any, copies: int, rows: int) -> Any:
    """Repeat a batch, whatever holds it; what is shared by all rows stays as it is."""
    if copies == 1:
        return value
    if isinstance(value, dict):
        return {name: _repeated(part, copies, rows) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_repeated(part, copies, rows) for part in value)
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    if value.ndim == 3 and value.dtype == torch.long:  # positions in space, [3 or 4, N, S]
        return value.repeat(1, copies, 1)
    if value.shape[0] == 1 and rows > 1:
        return value
    return value.repeat(copies, *[1] * (value.ndim - 1))
