"""Calibration: a gain for every head, learned at the places where an answer names an object."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vlmheads.anatomy import examine
from vlmheads.detect.replay import Replay
from vlmheads.detect.running import require_images
from vlmheads.detect.teaching import taught
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap

MEASURE = "gain"
# The range that gains are kept in.
LOW, HIGH = 0.0, 4.0
# What stands for the logarithm of a probability of 0.
_NOTHING = -1e9


@dataclass(frozen=True, eq=False)
class Lesson:
    """A batch of prompts with given answers, and choices at places of these answers.

    At a choice some next tokens are better and some worse; the others do not matter.

    Args:
        inputs: what a processor made of images and text, for N prompts.
        targets: [N, T] token ids of the answers, padded behind with any token.
        rows: [M] the prompt of each choice.
        places: [M] the target token that the choice is made in place of, 0 to T - 1.
        better: [M, V] True for tokens that are better.
        worse: [M, V] True for tokens that are worse.
        weights: [M] how much each choice counts, 0 or more.

    Raises:
        VlmHeadsError: shapes that do not fit, or a choice without better or worse tokens.
    """

    inputs: Mapping[str, Any]
    targets: Tensor
    rows: Tensor
    places: Tensor
    better: Tensor
    worse: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        count = len(self.rows)
        lengths = [len(self.places), len(self.better), len(self.worse), len(self.weights)]
        if not count or set(lengths) != {count} or self.better.shape != self.worse.shape:
            raise VlmHeadsError(
                f"a lesson of {count} rows, {lengths} places, better, worse and weights",
                "one of each for every choice, and at least one choice",
            )
        if not bool((self.better.any(dim=1) & self.worse.any(dim=1)).all()):
            raise VlmHeadsError(
                "a choice without better or without worse tokens", "at least one of both"
            )
        inside = (self.rows < len(self.targets)) & (self.places < self.targets.shape[1])
        if not bool((inside & (self.rows >= 0) & (self.places >= 0)).all()):
            raise VlmHeadsError(
                f"choices outside of targets of shape {list(self.targets.shape)}", "places in them"
            )


@dataclass(frozen=True)
class Step:
    """How far calibration has come: steps made, loss on the lessons since, and held-out loss."""

    number: int
    loss: float | None
    held_out: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `calibrate` learned.

    Args:
        gains: the gains of the step with the least held-out loss; its measure is "gain".
        steps: what was looked at on the way, the plain model first.
        best: the step that the gains are of; 0 where nothing was better than the plain model.
    """

    gains: HeadMap
    steps: tuple[Step, ...]
    best: int


def calibrate(
    model: Any,
    lessons: Sequence[Lesson],
    held_out: Sequence[Lesson],
    *,
    steps: int = 120,
    rate: float = 0.08,
    penalty: float = 0.003,
    low: float = LOW,
    high: float = HIGH,
    every: int = 10,
    patience: int = 3,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[Step], bool] = lambda step: True,
) -> Calibration:
    """Learn a gain for every head from lessons.

    The output of head h of layer l is multiplied by g_{l,h} at every position, as by the plugin
    `gains`. A choice c costs −log(p₊ / (p₊ + p₋)), where p₊ and p₋ are the probabilities of all
    its better and of all its worse tokens together. The gains minimise

        Σ_c w_c cost_c / Σ_c w_c  +  penalty · mean over heads of (g − 1)²

    by Adam, one lesson a step, kept between `low` and `high`. The weights of the model are not
    changed. What the decoder is given is kept for each lesson, so that images are encoded once.

    Our own method. The same model, lessons and seed give the same gains.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        lessons: what is learned from.
        held_out: what tells when to stop; of other images.
        steps: the most steps to make.
        rate: Adam's step size, about how far a gain moves in one step.
        penalty: how strongly gains are drawn to 1.
        low: the least gain.
        high: the largest gain.
        every: steps between looks at the held-out lessons.
        patience: looks in a row without a smaller held-out loss before it stops.
        seed: of the order of the lessons.
        provenance: plain values to keep with the gains.
        progress: is told about every look; False from it ends the learning.

    Raises:
        VlmHeadsError: no lessons or none held out, prompts without an image, a model with plugins
            attached, or a range that does not hold 1.
    """
    if not lessons or not held_out:
        raise VlmHeadsError(
            f"{len(lessons)} lessons and {len(held_out)} held out", "at least one of each"
        )
    if not low <= 1 <= high or low < 0:
        raise VlmHeadsError(f"gains from {low} to {high}", "a range from 0 or more that holds 1")
    geometry = examine(model).geometry
    given = [_replay(model, lesson) for lesson in lessons]
    tests = [_replay(model, lesson) for lesson in held_out]
    device = lessons[0].inputs["input_ids"].device
    gains = torch.ones(geometry.layers, geometry.heads, device=device, requires_grad=True)
    adam = torch.optim.Adam([gains], lr=rate, betas=(0.9, 0.95))
    shuffled = random.Random(seed)
    order: list[int] = []
    looks = [Step(0, None, _mean_loss(tests, held_out, gains))]
    best, kept = looks[0], gains.detach().clone()
    going, losses = progress(looks[0]), 0.0
    for number in range(1, steps + 1):
        if not going:
            break
        if not order:
            order = list(range(len(lessons)))
            shuffled.shuffle(order)
        index = order.pop()
        value, slope = loss_and_slope(given[index], lessons[index], gains)
        losses += value
        gains.grad = slope + penalty * 2 * (gains.detach() - 1) / gains.numel()
        adam.step()
        with torch.no_grad():
            gains.clamp_(low, high)
        if number % every == 0 or number == steps:
            count = number - looks[-1].number
            look = Step(number, losses / count, _mean_loss(tests, held_out, gains))
            looks.append(look)
            losses = 0.0
            if look.held_out < best.held_out:
                best, kept = look, gains.detach().clone()
            late = len([one for one in looks if one.number > best.number])
            going = progress(look) and late < patience
    about = {
        "method": "calibrate",
        "steps": looks[-1].number,
        "best step": best.number,
        "held-out loss": best.held_out,
        "held-out loss of the plain model": looks[0].held_out,
        "rate": rate,
        "penalty": penalty,
        "range": [low, high],
        "seed": seed,
    }
    found = HeadMap(kept[None], geometry, MEASURE, about | dict(provenance or {}))
    return Calibration(found, tuple(looks), best.number)


def loss_and_slope(replay: Replay, lesson: Lesson, gains: Tensor) -> tuple[float, Tensor]:
    """Return the mean cost of a lesson's choices under gains [L, H], and its gradient [L, H]."""
    with torch.enable_grad():
        leaf = gains.detach().requires_grad_()
        loss = _loss(replay, lesson, leaf)
        (slope,) = torch.autograd.grad(loss, leaf)
    return loss.item(), slope


def _replay(model: Any, lesson: Lesson) -> Replay:
    """Run the model once over a lesson, and keep what its decoder was given."""
    anatomy = examine(model)
    inputs = taught(anatomy, lesson.inputs, lesson.targets)
    replay = Replay.of(model, inputs)
    require_images(replay.anatomy, inputs)
    return replay


def _loss(replay: Replay, lesson: Lesson, gains: Tensor) -> Tensor:
    rows, places = lesson.rows.to(gains.device), lesson.places.to(gains.device)
    anatomy = replay.anatomy
    with ExitStack() as stack:
        for layer, projection in enumerate(anatomy.projections):
            if projection is not None:
                scale = partial(_scale, replay, layer, gains)
                stack.enter_context(projection.register_forward_pre_hook(scale))
        hidden = anatomy.decoder(*replay.args, **replay.kwargs).last_hidden_state
    # The position that predicts target t is t - T - 1, counted from the end.
    count = lesson.targets.shape[1]
    logits = anatomy.unembed(hidden[rows, places - count - 1][:, None], norm=False)[:, 0]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    better, worse = (
        logits.masked_fill(~mask.to(logits.device), _NOTHING).logsumexp(dim=-1)
        for mask in (lesson.better, lesson.worse)
    )
    weights = lesson.weights.to(logits)
    cost: Tensor = F.softplus(worse - better)
    return (weights * cost).sum() / weights.sum()


def _scale(replay: Replay, layer: int, gains: Tensor, _: nn.Module, args: tuple[Any, ...]) -> Any:
    heads = replay.anatomy.split_heads(layer, args[0])
    factors = gains[layer, : heads.shape[2]].to(heads.dtype)
    return ((heads * factors[:, None]).flatten(2), *args[1:])


@torch.no_grad()
def _mean_loss(replays: Sequence[Replay], lessons: Sequence[Lesson], gains: Tensor) -> float:
    """Mean cost over the choices of several lessons."""
    weights = [float(lesson.weights.sum()) for lesson in lessons]
    losses = [
        _loss(replay, lesson, gains).item()
        for replay, lesson in zip(replays, lessons, strict=True)
    ]
    return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
