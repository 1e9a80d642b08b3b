"""Calibration: a gain for every head, learned at the places where an answer names an object."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.detect.replay import Replay, require_images, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import GAIN, HeadMap
from vlmheads.model.anatomy import examine
from vlmheads.precision import at_least_float32

# The range that gains are kept in.
LOW, HIGH = 0.0, 4.0
# What stands for the logarithm of a probability of 0.
_NOTHING = -1e9


@dataclass(frozen=True, eq=False)
class Example:
    """A batch of prompts with given answers, and choices at places of these answers.

    At a choice some next tokens are better and some worse; the others do not matter.

    Args:
        inputs: what a processor made of images and text, for N prompts.
        targets: [N, T] token ids of the answers, padded on the right with any token.
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
                f"a example of {count} rows, {lengths} places, better, worse and weights",
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
class Checkpoint:
    """How far calibration has come after a round; round 0 is the plain model.

    Args:
        round: its number.
        steps: all steps made so far.
        loss: mean cost of the examples of the round, each before its step; None in round 0.
        held_out: cost of what is held out.
    """

    round: int
    steps: int
    loss: float | None
    held_out: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `calibrate` learned.

    Args:
        gains: the gains after the round with the least held-out cost; its measure is "gain".
        checkpoints: what was seen on the way, the plain model first.
        best: the round that the gains are of; 0 where none was better than the plain model.
    """

    gains: HeadMap
    checkpoints: tuple[Checkpoint, ...]
    best: int


Examples = Sequence[Example] | Callable[[int, HeadMap], Sequence[Example]]
HeldOut = Sequence[Example] | Callable[[HeadMap], float]


def calibrate(
    model: Any,
    examples: Examples,
    held_out: HeldOut,
    *,
    rounds: int = 6,
    rate: float = 0.05,
    penalty: float = 0.02,
    low: float = LOW,
    high: float = HIGH,
    patience: int = 3,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[Checkpoint], bool] = lambda checkpoint: True,
) -> Calibration:
    """Learn a gain for every head from examples.

    The output of head h of layer l is multiplied by g_{l,h} at every position, as by the plugin
    `gains`. A choice c costs −log(p₊ / (p₊ + p₋)), where p₊ and p₋ are the probabilities of all
    its better and of all its worse tokens together. The gains minimise

        Σ_c w_c cost_c / Σ_c w_c  +  penalty · mean over heads of (g − 1)²

    by Adam, one example per step and each example once per round, kept between `low` and `high`.
    The step size falls from round to round, to rate / rounds in the last. The weights of the model
    are not changed. What the decoder is given is kept for each example of a round, so that images
    are encoded once.

    Our own method. The same model, examples and seed give the same gains.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        examples: what is learned from; or what makes the examples of a round, counted from 1, from
            the gains so far, such as from answers given under these gains.
        held_out: examples on other images whose cost tells when to stop; or what tells that cost
            of gains.
        rounds: the most rounds to make.
        rate: Adam's step size in the first round, about how far a gain moves in one step.
        penalty: how strongly gains are drawn to 1.
        low: the least gain.
        high: the largest gain.
        patience: rounds in a row without a smaller held-out cost before it stops.
        seed: of the order of the examples.
        provenance: plain values to keep with the gains.
        progress: called after every round; returning False ends the learning.

    Raises:
        VlmHeadsError: no examples or none held out, prompts without an image, a model with plugins
            attached, or a range that does not hold 1.
    """
    if not low <= 1 <= high or low < 0:
        raise VlmHeadsError(f"gains from {low} to {high}", "a range from 0 or more that holds 1")
    geometry = examine(model).geometry
    judge = held_out if callable(held_out) else _judge(model, held_out)

    def as_map(values: Tensor, about: Mapping[str, Any]) -> HeadMap:
        values = values.detach().clone()
        values[list(geometry.bare_layers)] = torch.nan
        return HeadMap(values[None], geometry, GAIN, about)

    gains = torch.ones(geometry.layers, geometry.heads, requires_grad=True)
    adam = torch.optim.Adam([gains], lr=rate, betas=(0.9, 0.95))
    shuffled = random.Random(seed)
    kept = as_map(gains, {})
    checkpoints = [Checkpoint(0, 0, None, judge(kept))]
    best, going = checkpoints[0], progress(checkpoints[0])
    given: list[tuple[Replay, Example]] = []
    for number in range(1, rounds + 1):
        if not going or number - best.round > patience:
            break
        if callable(examples):
            given = _replays(model, examples(number, as_map(gains, {})))
        elif not given:
            given = _replays(model, examples)
        adam.param_groups[0]["lr"] = rate * (1 - (number - 1) / rounds)
        losses = 0.0
        for replay, example in shuffled.sample(given, len(given)):
            value, slope = loss_and_slope(replay, example, gains)
            losses += value / len(given)
            gains.grad = slope.cpu() + penalty * 2 * (gains.detach() - 1) / gains.numel()
            adam.step()
            with torch.no_grad():
                gains.clamp_(low, high)
        found = as_map(gains, {})
        checkpoint = Checkpoint(number, checkpoints[-1].steps + len(given), losses, judge(found))
        checkpoints.append(checkpoint)
        if checkpoint.held_out < best.held_out:
            best, kept = checkpoint, found
        going = progress(checkpoint)
    about = {
        "method": "calibrate",
        "rounds": checkpoints[-1].round,
        "steps": checkpoints[-1].steps,
        "best round": best.round,
        "held-out cost": best.held_out,
        "held-out cost of the plain model": checkpoints[0].held_out,
        "rate": rate,
        "penalty": penalty,
        "range": [low, high],
        "seed": seed,
    }
    gains_found = as_map(kept.mean(), about | dict(provenance or {}))
    return Calibration(gains_found, tuple(checkpoints), best.round)


def loss_and_slope(replay: Replay, example: Example, gains: Tensor) -> tuple[float, Tensor]:
    """Return the mean cost of a example's choices under gains [L, H], and its gradient [L, H]."""
    with torch.enable_grad():
        leaf = gains.detach().requires_grad_()
        loss = _loss(replay, example, leaf)
        (slope,) = torch.autograd.grad(loss, leaf)
    return loss.item(), slope


def _replays(model: Any, examples: Sequence[Example]) -> list[tuple[Replay, Example]]:
    """Run the model once over each example, and keep what its decoder was given."""
    if not examples:
        raise VlmHeadsError("no examples", "at least one")
    found = []
    for example in examples:
        inputs = teacher_forced(examine(model), example.inputs, example.targets)
        replay = Replay.of(model, inputs)
        require_images(replay.anatomy, inputs)
        found.append((replay, example))
    return found


def _judge(model: Any, examples: Sequence[Example]) -> Callable[[HeadMap], float]:
    """Return what tells the mean cost of examples under gains."""
    given = _replays(model, examples)

    @torch.no_grad()
    def judge(gains: HeadMap) -> float:
        weights = [float(example.weights.sum()) for _, example in given]
        losses = [_loss(replay, example, gains.mean()).item() for replay, example in given]
        return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)

    return judge


def _loss(replay: Replay, example: Example, gains: Tensor) -> Tensor:
    hidden = replay.states(gains.expand(replay.rows, -1, -1))
    # The position that predicts target t is t - T - 1, counted from the end.
    count = example.targets.shape[1]
    rows, places = example.rows.to(hidden.device), example.places.to(hidden.device)
    logits = replay.anatomy.unembed(hidden[rows, places - count - 1][:, None], norm=False)[:, 0]
    logits = at_least_float32(logits)
    better, worse = (
        logits.masked_fill(~mask.to(logits.device), _NOTHING).logsumexp(dim=-1)
        for mask in (example.better, example.worse)
    )
    weights = example.weights.to(logits)
    cost: Tensor = F.softplus(worse - better)
    return (weights * cost).sum() / weights.sum()
