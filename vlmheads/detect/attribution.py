"""Head attribution: what each head does to the probability of grounded and of invented words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vlmheads.detect.replay import Replay, marks, one_by_one, require_images, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import GAIN, HeadMap
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry

KINDS = ("grounded", "hallucinated")
Method = Literal["ablation", "gradient"]


@dataclass(frozen=True, eq=False)
class Attribution:
    """What `attribution` measured.

    Args:
        effects: [N, 2, L, H] change of the mean log-probability of the grounded (0) and of the
            hallucinated (1) target tokens that a factor on the head makes; not a number where an
            image has no such token.
        geometry: the model that it was measured on.
        factor: the factor on the head; 0 removes it.
        method: "ablation", or "gradient" for its first-order estimate.
        provenance: plain values, such as the model id and the prompt.
    """

    effects: Tensor
    geometry: Geometry
    factor: float
    method: Method
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grounded(self) -> HeadMap:
        """Effect on grounded words, of the images that have some; above 0, they gain."""
        return self._map(self.effects[:, 0], "grounded-effect", "a grounded word")

    @property
    def hallucinated(self) -> HeadMap:
        """Effect on hallucinated words, of the images that have some; above 0, they gain."""
        return self._map(self.effects[:, 1], "hallucinated-effect", "a hallucinated word")

    @property
    def score(self) -> HeadMap:
        """Effect on grounded less that on hallucinated words, of the images that have both.

        With a factor below 1, heads with a high score work for hallucinated words against grounded
        ones; AD-HH switches off the highest.
        """
        both = self.effects[:, 0] - self.effects[:, 1]
        return self._map(both, "attribution", "a grounded and a hallucinated word")

    def heads(self, count: int) -> list[tuple[int, int]]:
        """Return the heads (layer, head) of the highest score, such as `adhh:heads=` takes."""
        return [(layer, head) for layer, head, _ in self.score.top(count)]

    def gains(self, spread: float = 0.3) -> HeadMap:
        """Return factors for the plugin `gains`, less than 1 where the score is above 0.

        g = 1 - spread · score / max |score| for a factor below 1, 1 + ... for one above.

        Args:
            spread: how far the head of the largest score gets from 1.
        """
        return gains_of(self.score, spread)

    @classmethod
    def concatenate(cls, parts: Sequence[Attribution]) -> Attribution:
        """Join what was measured on several batches of one model, in the same way.

        Raises:
            VlmHeadsError: none, or parts of different models, factors or methods.
        """
        if not parts:
            raise VlmHeadsError("no attribution", "at least one to join")
        first = parts[0]
        for other in parts[1:]:
            first.geometry.require(other.geometry, "an attribution")
            if (other.factor, other.method) != (first.factor, first.method):
                raise VlmHeadsError(
                    f"factor {other.factor} by {other.method}",
                    f"factor {first.factor} by {first.method}",
                )
        effects = torch.cat([part.effects for part in parts])
        return cls(effects, first.geometry, first.factor, first.method, first.provenance)

    def _map(self, values: Tensor, measure: str, needed: str) -> HeadMap:
        there = ~values.flatten(1).isnan().any(dim=1)
        if not bool(there.any()):
            raise VlmHeadsError(f"no image with {needed}", "at least one")
        about = {"factor": self.factor, "method": self.method}
        return HeadMap(values[there], self.geometry, measure, dict(self.provenance) | about)


def attribution(
    model: Any,
    inputs: Mapping[str, Any],
    targets: Tensor,
    grounded: Tensor,
    hallucinated: Tensor,
    *,
    factor: float = 0.0,
    method: Method = "ablation",
    rows: int = 64,
    provenance: Mapping[str, Any] | None = None,
) -> Attribution:
    """Measure how a factor on each head changes the log-probability of given target tokens.

    The answers are given; the output of one head is multiplied by `factor` at every position,
    prompt included, and the mean log-probability of the grounded tokens, and that of the
    hallucinated ones, is compared with the plain model's. By "ablation" every head is scaled in
    turn, the rows of one batch each another head; the images are encoded once. By "gradient" the
    change is (factor - 1) · ∂/∂g at g = 1 of the head's gain g, for all heads and both kinds of
    tokens in one backward pass.

    Source: Yang et al., ICLR 2025 (AD-HH), who remove heads one by one and look at object tokens;
    the score is the difference of the effects on grounded and hallucinated ones. Deviation: the
    means are over tokens of the image's own answer, not over a whole data set, so that each image
    counts once.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right with any token.
        grounded: [N, T] True on the tokens of objects that are in the image.
        hallucinated: [N, T] True on the tokens of objects that are not.
        factor: what the head's output is multiplied by.
        method: "ablation" or "gradient".
        rows: rows of a batch of ablations, at least N.
        provenance: plain values to keep, such as the model id and the prompt.

    Raises:
        VlmHeadsError: shapes that do not fit, no marked token at all, no image in any prompt, or a
            model with plugins attached.
    """
    measure = {"ablation": _by_ablation, "gradient": _by_gradient}.get(method)
    if measure is None:
        raise VlmHeadsError(f"method={method!r}", "'ablation' or 'gradient'")
    given = teacher_forced(examine(model), inputs, targets)
    shape = (targets.shape[0], targets.shape[1])
    kinds = torch.stack(
        [marks("grounded", grounded, shape), marks("hallucinated", hallucinated, shape)]
    ).to(given["input_ids"].device)
    if not bool(kinds.any()):
        raise VlmHeadsError("targets without a marked token", "a grounded or hallucinated word")
    replay = Replay.of(model, given)
    require_images(replay.anatomy, given)
    targets = targets.to(given["input_ids"])
    effects = measure(replay, targets, kinds, factor, rows)
    missing = ~kinds.any(dim=2).T.cpu()
    effects = effects.cpu().float().masked_fill(missing[:, :, None, None], torch.nan)
    effects[:, :, list(replay.anatomy.geometry.bare_layers)] = torch.nan
    return Attribution(effects, replay.anatomy.geometry, factor, method, dict(provenance or {}))


def gains_of(score: HeadMap, spread: float = 0.3) -> HeadMap:
    """Turn a map of "attribution" into one of factors; see `Attribution.gains`.

    Raises:
        VlmHeadsError: a map of another measure.
    """
    if score.measure != "attribution":
        raise VlmHeadsError(f"a head map of {score.measure!r}", "one of 'attribution'")
    values = score.mean()
    largest = float(values.abs().nan_to_num().max()) or 1.0
    sign = -1.0 if float(score.provenance.get("factor", 0)) < 1 else 1.0
    about = {"from": "attribution", "spread": spread}
    factors = 1 + sign * spread * values / largest
    return HeadMap(factors[None], score.geometry, GAIN, dict(score.provenance) | about)


def correlation(one: HeadMap, other: HeadMap) -> tuple[float, float]:
    """Pearson's and Spearman's correlation of two maps over all heads that both have numbers for.

    Ties share no rank: the first of them ranks lower.

    Raises:
        VlmHeadsError: maps of different models.
    """
    one.geometry.require(other.geometry, "a head map")
    values = torch.stack([one.mean().flatten(), other.mean().flatten()]).double()
    values = values[:, ~values.isnan().any(dim=0)]
    ranks = values.argsort(dim=1, stable=True).argsort(dim=1).double()
    return float(torch.corrcoef(values)[0, 1]), float(torch.corrcoef(ranks)[0, 1])


def _means(found: Tensor, kinds: Tensor) -> Tensor:
    """Mean of log-probabilities [K, N, T] over the tokens of each kind, [K, N, 2]."""
    weights = kinds / kinds.sum(dim=2, keepdim=True).clamp(min=1)
    return torch.einsum("knt,int->kni", found, weights.to(found.dtype))


@torch.no_grad()
def _by_ablation(
    replay: Replay, targets: Tensor, kinds: Tensor, factor: float, rows: int
) -> Tensor:
    """Scale one head after the other; [N, 2, L, H]."""
    geometry, count = replay.anatomy.geometry, len(targets)
    every, sets = one_by_one(geometry, factor)
    plain = _means(replay.swept(targets, torch.ones_like(sets[:1]), rows), kinds)[0]
    change = _means(replay.swept(targets, sets, rows), kinds) - plain
    shape = (count, 2, geometry.layers, geometry.heads)
    effects = torch.zeros(shape, dtype=plain.dtype, device=plain.device)
    for found, (layer, head) in zip(change, every, strict=True):
        effects[:, :, layer, head] = found
    return effects


@torch.enable_grad()
def _by_gradient(
    replay: Replay, targets: Tensor, kinds: Tensor, factor: float, rows: int
) -> Tensor:
    """Differentiate by the gains of all heads; the batch stands once for each kind."""
    geometry, count = replay.anatomy.geometry, len(targets)
    shape = (2 * count, geometry.layers, geometry.heads)
    gains = torch.ones(shape, device=targets.device, requires_grad=True)
    found = replay.log_probabilities(targets, gains).reshape(2, count, -1)
    means = _means(found, kinds)
    (slope,) = torch.autograd.grad(means[0, :, 0].sum() + means[1, :, 1].sum(), gains)
    effects: Tensor = (factor - 1) * slope.reshape(2, count, *shape[1:]).transpose(0, 1)
    return effects
