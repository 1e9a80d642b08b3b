"""Run a text decoder again on what it was given, many times over, with a gain on every head."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmheads.anatomy import Anatomy, examine
from vlmheads.detect.running import refuse_attached


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

    def log_probabilities(self, targets: Tensor, gains: Tensor) -> Tensor:
        """Log-probability of each target token, under gains on the head outputs.

        Args:
            targets: [N, T] the last tokens of the prompts.
            gains: [K * N, L, H] factors, for K copies of the batch one after the other.

        Returns:
            [K * N, T], float32 or more.
        """
        hidden = self.states(gains)
        count = targets.shape[1]
        logits = self.anatomy.unembed(hidden[:, -count - 1 : -1], norm=False)
        wide = torch.promote_types(logits.dtype, torch.float32)
        found: Tensor = logits.log_softmax(dim=-1, dtype=wide)
        return found.gather(-1, targets.repeat(len(gains) // self.rows, 1)[..., None])[..., 0]

    def states(self, gains: Tensor) -> Tensor:
        """Last states [K * N, S, E] of the decoder, with head outputs times gains [K * N, L, H]."""
        copies = len(gains) // self.rows
        args, kwargs = (_repeated(part, copies, self.rows) for part in (self.args, self.kwargs))
        with ExitStack() as stack:
            for layer, projection in enumerate(self.anatomy.projections):
                if projection is not None:
                    scale = partial(self._scale, layer, gains)
                    stack.enter_context(projection.register_forward_pre_hook(scale))
            states: Tensor = self.anatomy.decoder(*args, **kwargs).last_hidden_state
        return states

    def _scale(self, layer: int, gains: Tensor, _: nn.Module, args: tuple[Any, ...]) -> Any:
        heads = self.anatomy.split_heads(layer, args[0])
        factors = gains[:, layer, : heads.shape[2]].to(heads.dtype)
        return ((heads * factors[:, None, :, None]).flatten(2), *args[1:])


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
