"""Vectors on head outputs: between two kinds of prompts, and trained by what is to be said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.detect.replay import Replay, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.model.layout import head_size, width_of
from vlmheads.precision import at_least_float32

Inputs = Mapping[str, Any]
# Newton steps of a logistic regression; each about doubles the number of right digits.
_NEWTON, _HALVINGS = 25, 8
# LoFiT's training, as released: examples a step, spread of the first values, the temperature of
# the preference, and the weight of the sum of sizes in the first of its two rounds.
_BATCH, _SPREAD, _BETA, _L1 = 8, 1e-3, 0.5, 5e-4


def head_width(anatomy: Anatomy) -> int:
    """Return D, the size of every head of a model.

    Raises:
        VlmHeadsError: layers whose heads are of different sizes.
    """
    sizes = {head_size(one) for one in anatomy.attentions if one is not None}
    if len(sizes) != 1:
        raise VlmHeadsError(
            f"heads of sizes {', '.join(map(str, sorted(sizes)))}", "one size in all layers"
        )
    return sizes.pop()


@torch.no_grad()
def head_states(model: Any, inputs: Inputs) -> Tensor:
    """Return what every head gives at the last token of one prompt, [L, H, D] in float32.

    Layers without heads, and those with fewer heads than others, hold 0 in their place.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: arguments of its forward, one row without padding.
    """
    anatomy = examine(model)
    geometry = anatomy.geometry
    found = torch.zeros(geometry.layers, geometry.heads, head_width(anatomy))
    with ExitStack() as stack:
        for index, projection in enumerate(anatomy.projections):
            if projection is None:
                continue

            def keep(_: Any, args: tuple[Any, ...], index: int = index) -> None:
                heads = at_least_float32(anatomy.split_heads(index, args[0])[0, -1])
                found[index, : len(heads)] = heads.cpu()

            stack.callback(projection.register_forward_pre_hook(keep).remove)
        anatomy.generator(**inputs, use_cache=False, return_dict=True)
    return found


def mass_mean(truthful: Tensor, hallucinated: Tensor) -> Tensor:
    """Return ITI's σ d [L, H, D] of samples [N, L, H, D] of either kind.

    d is the difference of the means, at length 1, and σ the standard deviation of all samples along
    it. Heads whose means are the same get 0.
    """
    return _spread_along(
        truthful.mean(dim=0) - hallucinated.mean(dim=0), torch.cat([truthful, hallucinated])
    )


def probe_direction(truthful: Tensor, hallucinated: Tensor) -> Tensor:
    """Return σ d as `mass_mean` does, with d the weights of a logistic regression on all samples.

    Samples have no column of ones: the regression has an intercept of its own.
    """
    samples = torch.cat([truthful, hallucinated])
    labels = torch.arange(len(samples)) < len(truthful)
    weights = [
        _regression(samples[:, layer].transpose(0, 1), labels)[..., :-1]
        for layer in range(samples.shape[1])
    ]
    return _spread_along(torch.stack(weights).to(samples), samples)


def probe_accuracy(truthful: Tensor, hallucinated: Tensor) -> Tensor:
    """Return [L, H], how well a logistic regression on a head tells two kinds of samples apart.

    It is fitted on one half of the pairs and asked about the other, both ways; the accuracy is the
    mean of the two.

    Args:
        truthful: [N, L, H, D].
        hallucinated: the same of the other side of the same N pairs.

    Raises:
        VlmHeadsError: fewer than two pairs.
    """
    if len(truthful) < 2:
        raise VlmHeadsError(f"{len(truthful)} pairs of captions", "two or more, for two halves")
    right = torch.zeros(truthful.shape[1:3])
    for fold in (0, 1):
        ask = torch.arange(len(truthful)) % 2 == fold
        labels = torch.arange(2 * int((~ask).sum())) < int((~ask).sum())
        for layer in range(truthful.shape[1]):
            sides = truthful[:, layer], hallucinated[:, layer]
            known = torch.cat([one[~ask] for one in sides]).transpose(0, 1)
            weights = _regression(known, labels)
            for kind, one in zip((True, False), sides, strict=True):
                asked = _with_ones(one[ask].transpose(0, 1))
                said = torch.einsum("hnd,hd->hn", asked, weights) > 0
                right[layer] += (said == kind).sum(dim=1) / (2 * len(truthful))
    return right


def _spread_along(directions: Tensor, samples: Tensor) -> Tensor:
    """Return directions [L, H, D] at the standard deviation of samples [N, L, H, D] along them."""
    unit = F.normalize(directions, dim=-1)
    along = torch.einsum("nlhd,lhd->nlh", samples, unit)
    return along.std(dim=0, correction=0)[..., None] * unit


def _with_ones(samples: Tensor) -> Tensor:
    return F.pad(samples.double(), (0, 1), value=1.0)


def _regression(samples: Tensor, labels: Tensor) -> Tensor:
    """Return logistic regressions [H, D + 1], the intercept last, of samples [H, N, D].

    The cost is Σ log(1 + exp(∓ w·x)) + ‖w‖² / 2, the intercept left out of the latter.
    """
    given, truth = _with_ones(samples), labels.double()
    drawn = torch.ones(given.shape[-1], dtype=given.dtype)
    drawn[-1] = 1e-9
    weights = given.new_zeros(given.shape[0], given.shape[-1])

    def cost(at: Tensor) -> Tensor:
        score = torch.einsum("hnd,hd->hn", given, at)
        return (F.softplus(score) - truth * score).sum(dim=1) + (drawn * at.square()).sum(dim=1) / 2

    for _ in range(_NEWTON):
        said = torch.einsum("hnd,hd->hn", given, weights).sigmoid()
        slope = torch.einsum("hn,hnd->hd", said - truth, given) + drawn * weights
        curve = torch.einsum("hn,hnd,hne->hde", said * (1 - said), given, given)
        step, size = (
            torch.linalg.solve(curve + drawn.diag(), slope),
            weights.new_ones(len(given), 1),
        )
        for _ in range(_HALVINGS):  # A step that goes too far is halved.
            worse = cost(weights - size * step) > cost(weights)
            size = torch.where(worse[:, None], size / 2, size)
        weights = weights - size * step
    return weights


@dataclass(frozen=True, eq=False)
class Preference:
    """A prompt with two answers, of which the first is to be preferred.

    Args:
        inputs: what a processor made of the prompt and its image, given twice.
        targets: [2, T] token ids of the answers, padded on the right with any token.
        lengths: [2] how many tokens of each are the answer.
    """

    inputs: Inputs
    targets: Tensor
    lengths: Tensor


@dataclass(frozen=True, eq=False)
class Trained:
    """What LoFiT learned.

    Args:
        offsets: v [L, H, D], 0 but at the heads that were chosen.
        sizes: ‖A‖ [L, H] after the first round, by which heads were chosen.
        losses: the mean loss of every epoch of the second round.
    """

    offsets: Tensor
    sizes: Tensor
    losses: tuple[float, ...]


def train_offsets(
    model: Any,
    preferences: Sequence[Preference],
    count: int,
    *,
    epochs: int = 5,
    rates: tuple[float, float] = (5e-3, 2e-2),
    seed: int = 42,
) -> Trained:
    """Choose heads and train a vector on each, by LoFiT's two rounds.

    1. Head outputs are z ← (1 + A) z with a factor for every number in every head; A is trained,
       its absolute values at a cost of 5e-4 each, and the `count` heads with the largest ‖A‖ are
       chosen. A is then forgotten.
    2. z ← z + v in these heads, and v is trained.

    Both are trained by direct preference optimisation with β = 0.5 against the model itself, with
    Adam in batches of 8, at a rate that falls to 0 along a line. The model's weights stay.

    Source: NeurIPS 2024, arXiv 2406.01563, and fc2869/lo-fit, which trains so on TruthfulQA.

    Args:
        model: without plugins attached.
        preferences: at least one.
        count: heads to choose.
        epochs: of each round.
        rates: of the two rounds.
        seed: of the first values and of the order.

    Raises:
        VlmHeadsError: no preferences, or more heads than the model has.
    """
    anatomy = examine(model)
    geometry = anatomy.geometry
    every = geometry.heads * len(geometry.attention_layers)
    if not preferences or not 1 <= count <= every:
        raise VlmHeadsError(
            f"{count} heads to train on {len(preferences)} pairs of captions",
            f"1 to {every} heads, and a pair",
        )
    replays = [
        (one, Replay.of(model, teacher_forced(anatomy, one.inputs, one.targets)))
        for one in preferences
    ]
    with torch.no_grad():
        plain = [_said(replay, one, lambda _, heads: heads) for one, replay in replays]
    draws = torch.Generator().manual_seed(seed)
    shape = (geometry.layers, geometry.heads, head_width(anatomy))

    def rounds(scaling: bool, place: Tensor) -> tuple[Tensor, list[float]]:
        leaf = torch.randn(shape, generator=draws) * _SPREAD * place[..., None]
        losses: list[float] = []
        adam = torch.optim.Adam([leaf], lr=rates[0 if scaling else 1])
        steps = epochs * -(-len(replays) // _BATCH)
        falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / steps)
        for _ in range(epochs):
            total = 0.0
            for some in _batches(len(replays), draws):
                slope = torch.zeros(shape)
                for at in some:
                    loss, part = _slope(*replays[at], plain[at], leaf, scaling=scaling)
                    slope += part / len(some)
                    total += loss / len(replays)
                leaf.grad = (slope + (_L1 * leaf.sign() if scaling else 0)) * place[..., None]
                adam.step()
                falling.step()
            losses.append(total)
        return leaf.detach(), losses

    there = torch.zeros(shape[:2])
    for layer in geometry.attention_layers:
        projection = anatomy.projections[layer]
        assert projection is not None
        there[layer, : width_of(projection) // shape[2]] = 1
    sizes = rounds(True, there)[0].norm(dim=-1)
    first = sizes.flatten().argsort(descending=True, stable=True)[:count]
    chosen = torch.zeros(there.numel()).index_fill(0, first, 1.0).view_as(there)
    offsets, losses = rounds(False, chosen)
    return Trained(offsets, sizes, tuple(losses))


def _batches(count: int, draws: torch.Generator) -> Iterator[list[int]]:
    order = torch.randperm(count, generator=draws).tolist()
    for start in range(0, count, _BATCH):
        yield order[start : start + _BATCH]


def _said(replay: Replay, one: Preference, edit: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return the log-probability [2] of both answers under an edit of head outputs."""
    hidden = replay.states_under(edit)
    length = one.targets.shape[1]
    logits = replay.anatomy.unembed(hidden[:, -length - 1 : -1], norm=False)
    logs = at_least_float32(logits).log_softmax(dim=-1)
    targets = one.targets.to(logs.device)
    found = logs.gather(-1, targets[..., None])[..., 0]
    inside = torch.arange(length, device=logs.device) < one.lengths.to(logs.device)[:, None]
    return found.masked_fill(~inside, 0).sum(dim=1)


def _slope(
    one: Preference, replay: Replay, plain: Tensor, values: Tensor, *, scaling: bool
) -> tuple[float, Tensor]:
    """Return the loss of a preference, and its gradient by the values [L, H, D]."""
    leaf = values.detach().requires_grad_()

    def edit(layer: int, heads: Tensor) -> Tensor:
        own = leaf[layer, : heads.shape[2]].to(heads)
        return heads * (1 + own) if scaling else heads + own

    with torch.enable_grad():
        gain = _said(replay, one, edit) - plain
        loss = -F.logsigmoid(_BETA * (gain[0] - gain[1]))
        (slope,) = torch.autograd.grad(loss, leaf)
    return loss.item(), slope.cpu()
