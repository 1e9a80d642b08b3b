"""Contextual decomposition: a head's own part of the answer, carried through all later layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmheads.detect.attending import AllRows, attention_edited, own_values
from vlmheads.detect.objectives import Trial
from vlmheads.detect.replay import one_by_one
from vlmheads.errors import VlmHeadsError
from vlmheads.precision import at_least_float32


@torch.no_grad()
def contextual_decomposition(trials: Sequence[Trial], rows: int = 64) -> list[Tensor]:
    """Measure what the objective loses with each head's part of the answer, with its sign turned.

    Every state is split into β + γ, β being what comes from one head: at that head β = o - mean(o),
    the mean over all tokens of all prompts, elsewhere 0. Attention weights and the scales of norms
    are those of the whole state, so that attention, norms and projections treat both parts
    linearly; an MLP f gives β' = ½ [f(β) - f(0) + f(β + γ) - f(γ)] and γ' = f(β + γ) - β'. The
    effect is the objective of γ alone less that of the whole: above 0 where the head's part works
    against the objective.

    Source: CD-T, Hsu et al., "Efficient Automated Circuit Discovery in Transformers using
    Contextual Decomposition", arXiv 2407.00886, known to us from its description. Deviations: its
    rule for activations is taken of the MLP as a whole; the mean is over tokens, not per position,
    since prompts differ in length; what is scored is the log-probability of words under γ, not β's
    own logits.

    Memory: one map of attention [N, H, S, S] of a layer at a time.

    Args:
        trials: batches of answers of one model.
        rows: rows of a batch, at least 2 N of the largest.

    Returns:
        Effects [N, L, H] of each batch.

    Raises:
        VlmHeadsError: a decoder with norms or MLPs of another kind, several residual streams, or
            attention that cannot be served by a named function.
    """
    totals: dict[int, Tensor] = {}
    tokens = 0
    for trial in trials:
        real = trial.given["attention_mask"].bool()
        tokens += int(real.sum())
        for layer, heads in trial.replay.heads().items():
            part = at_least_float32(heads)[real.to(heads.device)].sum(dim=0)
            totals[layer] = totals[layer] + part if layer in totals else part
    means = {layer: total / tokens for layer, total in totals.items()}
    return [_effects(trial, means, rows) for trial in trials]


def _effects(trial: Trial, means: dict[int, Tensor], rows: int) -> Tensor:
    replay, anatomy = trial.replay, trial.replay.anatomy
    geometry, count = anatomy.geometry, replay.rows
    every, _ = one_by_one(geometry, 0.0)
    effects = torch.zeros(count, geometry.layers, geometry.heads)
    size = max(1, rows // count - 1)
    for start in range(0, len(every), size):
        some = every[start : start + size]
        split = _Split(count, len(some))
        with ExitStack() as stack:
            stack.enter_context(attention_edited(anatomy, split.attend))
            for layer, mlp in enumerate(anatomy.mlps):
                if mlp is None:
                    raise VlmHeadsError(f"layer {layer}, whose MLP was not found", "an MLP in each")
                stack.callback(mlp.register_forward_hook(split.mlp).remove)
            for name, module in anatomy.decoder.named_modules():
                if "Norm" in type(module).__name__:
                    hook = partial(split.norm, name)
                    stack.callback(module.register_forward_hook(hook).remove)
            edit = partial(_with_means, some, count, means)
            states = replay.states_under(edit, len(some) + 1)
        found = replay.read(states, trial.targets).reshape(-1, *trial.targets.shape)
        values = trial.judge(found)
        for change, (layer, head) in zip(values[1:] - values[0], some, strict=True):
            effects[:, layer, head] = change.cpu()
    return effects


def _with_means(
    some: list[tuple[int, int]], rows: int, means: dict[int, Tensor], layer: int, heads: Tensor
) -> Tensor:
    """Give the copies of the batch, the first left alone, their head's mean as its output."""
    made = heads.clone()
    for copy, (at, head) in enumerate(some, 1):
        if at == layer and head < heads.shape[2]:
            made[copy * rows : (copy + 1) * rows, :, head] = means[layer][head].to(heads)
    return made


@dataclass(frozen=True)
class _Split:
    """A batch whose first `count` rows are whole states, and `copies` times as many their γ."""

    count: int
    copies: int

    def attend(self, layer: int, values: Tensor, rows: AllRows, plain: Any) -> Tensor:
        """Attend by the weights of the whole states alone."""
        # A row of padding sees nothing and is not a number.
        weights = rows(self.count).weights.nan_to_num()
        own = own_values(values, weights.shape[1])
        own = own.reshape(self.copies + 1, self.count, *own.shape[1:])
        made = torch.einsum("nhqk,cnkhd->cnqhd", weights.to(own), own)
        return made.flatten(0, 1)

    def norm(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Scale by the whole states."""
        given: Tensor = args[0]
        if given.ndim != 3:
            return None  # of queries and keys, which count for nothing here
        kind = type(module).__name__
        if not isinstance(output, Tensor) or not ("RMSNorm" in kind or "LayerNorm" in kind):
            raise VlmHeadsError(f"{name}, a {kind}", "root-mean-square or layer norms")
        wide = at_least_float32(given)
        if "LayerNorm" in kind:
            wide = wide - wide.mean(dim=-1, keepdim=True)
        scale = wide.square().mean(dim=-1, keepdim=True).sqrt()
        scale = scale.clamp(min=torch.finfo(scale.dtype).tiny)
        ratio = scale / scale[: self.count].repeat(self.copies + 1, 1, 1)
        bias = getattr(module, "bias", None)
        shift = 0 if bias is None else bias
        return ((output - shift) * ratio.to(output) + shift).to(output.dtype)

    def mlp(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Split the MLP's output."""
        given: Tensor = args[0]
        if not isinstance(output, Tensor) or given.ndim != 3:
            raise VlmHeadsError(
                f"a {type(module).__name__} that gives {type(output).__name__}", "an MLP of states"
            )
        whole, made = (part[: self.count].repeat(self.copies, 1, 1) for part in (given, output))
        rest = output[self.count :]
        alone = module.forward(whole - given[self.count :])
        nothing = module.forward(torch.zeros_like(given[:1, :1]))
        beta = (alone - nothing + made - rest) / 2
        return torch.cat([output[: self.count], made - beta])
