"""How sink tokens depend on the prompt and on the size of the image, which decides VAR's τ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.replay import prefill
from vlmheads.detect.sinks import known_dimensions, sink_strength
from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request

TAUS = (1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0)
# Layers whose states have no massive activations yet, as VAR leaves them out.
_EARLY = 2
# Times the mean attention that a sink draws at least, to be worth the name.
_MORE = 1.5


@dataclass(frozen=True, eq=False)
class Drawn:
    """φ of image tokens, and how much attention they draw, under one condition.

    Args:
        phi: [M] φ of each image token as it enters each layer from the third on.
        attention: [M] attention that it draws there from text rows after the image, mean of rows
            and heads, over the mean of the image tokens of its prompt and layer.
        tokens: image tokens per prompt, mean.
        first: φ of the first token of the prompt, mean of prompts and of those layers.
    """

    phi: Tensor
    attention: Tensor
    tokens: float
    first: float

    def at(self, tau: float) -> tuple[float, float]:
        """Share of image tokens and layers with φ ≥ τ, and the attention of those over the mean.

        The second is not a number where there is none.
        """
        above = self.phi >= tau
        drawn = self.attention[above]
        return float(above.float().mean()), float(drawn.mean()) if len(drawn) else float("nan")

    @classmethod
    def concatenate(cls, parts: Sequence[Drawn]) -> Drawn:
        """Join what was measured on several batches under one condition.

        Raises:
            VlmHeadsError: none to join.
        """
        if not parts:
            raise VlmHeadsError("nothing was measured", "at least one batch")
        phi, attention = (torch.cat([getattr(p, name) for p in parts]) for name in
                          ("phi", "attention"))  # fmt: skip
        means = [sum(getattr(p, name) for p in parts) / len(parts) for name in ("tokens", "first")]
        return cls(phi, attention, *means)


@torch.no_grad()
def massive_dimensions_of(model: Any, inputs: Mapping[str, Any], count: int = 2) -> tuple[int, ...]:
    """Return the dimensions on record for a decoder, else the most massive ones of first tokens.

    These are the `count` dimensions with the largest |x[d]| / RMS(x), mean of the prompts' first
    tokens as they enter the layers from the third on; no τ is needed to find them.

    Raises:
        VlmHeadsError: no image in any prompt.
    """
    probe = _Probe(())
    anatomy = prefill(model, inputs, probe)
    known = known_dimensions(anatomy.decoder.config)
    if known is not None:
        return known
    mean = torch.stack(probe.relative).mean(dim=0)
    return tuple(sorted(mean.topk(min(count, len(mean))).indices.tolist()))


@torch.no_grad()
def sink_conditions(model: Any, inputs: Mapping[str, Any], dimensions: Sequence[int]) -> Drawn:
    """Measure φ of the image tokens of some prompts, and the attention that they draw.

    A token is worth the name of a sink where it draws more attention than others because of its
    norm. Source: Kang et al., ICLR 2025, arXiv 2503.03321, who give φ and τ = 20 for models of 7B;
    that attention is compared with φ under several prompts and sizes is ours.

    Args:
        model: a transformers model for image-text-to-text generation; plugins that are attached
            to it act.
        inputs: what a processor made of images and text, for a batch of N prompts.
        dimensions: sink dimensions, such as `massive_dimensions_of` gives.

    Raises:
        VlmHeadsError: no image in any prompt, or a decoder of fewer than three layers.
    """
    probe = _Probe(tuple(dimensions))
    anatomy = prefill(model, inputs, probe)
    if not probe.found:
        raise VlmHeadsError(f"a decoder of {len(anatomy.layers)} layers", "more than two")
    phi = torch.cat([strength[visual] for strength, _, visual, _ in probe.found])
    attention = torch.cat([drawn[visual] for _, drawn, visual, _ in probe.found])
    tokens = probe.found[0][2].sum(dim=1).float()
    first = torch.stack([one for *_, one in probe.found]).mean()
    return Drawn(phi, attention, float(tokens[tokens > 0].mean()), float(first))


def choose_tau(conditions: Mapping[str, Drawn], most: float = 0.05) -> tuple[float, float] | None:
    """Return the τ that VAR should have, and how much attention its sinks draw at least.

    It is the one of `TAUS` at which, under every condition, some image tokens are sinks, at most a
    share `most` of them, and the attention on these, over the mean, is largest in the worst
    condition. None where no τ gives such tokens, or they draw less than half as much again as
    others do.
    """
    best: tuple[float, float] | None = None
    for tau in TAUS:
        found = [drawn.at(tau) for drawn in conditions.values()]
        if not all(0 < share <= most for share, _ in found):
            continue
        least = min(drawn for _, drawn in found)
        if least >= _MORE and (best is None or least > best[1]):
            best = tau, least
    return best


@dataclass(frozen=True)
class _Probe(Plugin):
    """Keep φ and the attention drawn of each layer from the third on; without dimensions, |x|."""

    name: ClassVar[str] = "sink-conditions"

    dimensions: tuple[int, ...] = ()
    relative: list[Tensor] = field(default_factory=list)
    # (φ [N, S], attention [N, S], image tokens [N, S], φ of the first token).
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        if self.dimensions and layer >= _EARLY:
            request.scratch(self)["rows"] = rows  # the state that enters is known afterwards
        return rows

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        if site != "residual" or layer < _EARLY:
            return hidden
        entering, mask = request.entering, request.prompt.mask
        index = torch.arange(len(entering), device=entering.device)
        start = mask.int().argmax(dim=1)
        if not self.dimensions:
            first = at_least_float32(entering[index, start])
            scale = first.square().mean(dim=-1, keepdim=True).sqrt()
            self.relative.append((first.abs() / scale.clamp(min=1e-30)).mean(dim=0).cpu())
            return hidden
        rows: Rows | None = request.scratch(self).pop("rows", None)
        if rows is None:
            return hidden
        strength = sink_strength(entering, self.dimensions)
        total = torch.zeros((), device=strength.device)
        for _, weights in rows.stream():
            total = total + weights.sum(dim=(1, 2))  # [N, K]
        keys = rows.image_keys
        dropped = request.seen - keys.shape[1]
        share = total * keys
        mean = share.sum(dim=1, keepdim=True) / keys.sum(dim=1, keepdim=True).clamp(min=1)
        drawn = share / mean.clamp(min=torch.finfo(share.dtype).tiny)
        self.found.append(
            (
                strength[:, dropped:].cpu(),
                drawn.cpu(),
                keys.cpu(),
                strength[index, start].mean().cpu(),
            )
        )
        return hidden
