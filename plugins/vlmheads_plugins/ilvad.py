"""ILVAD: look where attention on the image jumps from one layer to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._beams import came_from, later_layers, refuse_drafts, refuse_layer_0
from vlmheads_plugins._marks import predicting_rows
from vlmheads_plugins._spread import scaled, to_unit, top_half


@dataclass(frozen=True, eq=False)
class _Recorder(Plugin):
    """Keep what the half of the heads with most attention on the image gives it, by step and layer.

    [B, S] each, 0 off the image; the prefill is left out.
    """

    name: ClassVar[str] = "ilvad's recorder"

    found: dict[int, dict[int, Tensor]] = field(default_factory=dict)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        if not request.is_prefill:
            weights = at_least_float32(rows.part(slice(-1, None))) * rows.image_keys[:, None, None]
            mean = _mean_of(weights, _leading(weights.sum(dim=-1)))[:, 0]
            mean = F.pad(mean, (max(0, request.seen - mean.shape[1]), 0))
            self.found.setdefault(request.step, {})[layer] = mean[:, : request.prompt_length]
        return rows


@dataclass(frozen=True)
class ILVAD(Plugin):
    """Raise the attention on image tokens that gain attention from one layer to the next.

    **Ahead.** Ten tokens are generated plainly and thrown away. In each layer, a_l is the attention
    on the image, mean over the half of the heads with most of it, and b_l = a_l where that is above
    `peak` times its mean over the image, else 0. Summed over the tokens but the first and over
    neighbouring layers, max(b_(l+1) − b_l, 0) is cut at three standard deviations from its mean and
    scaled to 0..1: the map S.

    **Then**, in the rows that predict a token, after the softmax: the evidence heads of a layer are
    the half with the largest Σ A α S / Σ A over the image. In the layers to act on,

    1. evidence heads: A_j ← A_j exp(α S_j) for the image;
    2. the half of the heads with most attention on text behind the image: A_j ← (w_j + b) A_j for
       that text, w scaled to 0..1 over it, where w_j sums over all layers what the evidence heads
       of row j gave to the image, weighed by α S;
    3. each head's row is divided by its sum.

    Source: inter-layer visual attention discrepancy, ICML 2026, arXiv 2605.20965, and ytx-ML/ILVAD:
    α = 5, b = 0.3 and layers 5 to 25 for captions; b = 1, layers 0 to 30 for POPE; α = 4, b = 0.2
    for LLaVA-Bench; α = 3 for LLaVA-NeXT. Written from the formulas: no licence is stated.
    `form="release"` keeps what its code adds: S counts only where the mean over the layers of a_l
    is above its own mean, at each token; and each generated token is weighed by the row before it,
    the last prompt token by 0. In the paper's form each token is weighed by its own row, as far as
    the layers have come. In the prefill both go by the layers so far.

    Deviations: every row of a batch has its own map; the map is scaled after it is cut, not before;
    without any jump there is no map, where the release gives no number; half of an odd number of
    heads is rounded down, and among heads equal to 0.00001 the first count; layer 0, where beams
    cannot be told apart, is refused, and so are drafts and generation without a cache.

    Cost: ten tokens ahead, for each beam; one attention row in every layer and for each token.

    Evidence: the authors' table: 48.6/13.5 to 32.6/9.4, POPE F1 85.2 to 86.1; Qwen2-VL 20.8 to
    17.8. Without the image part 49.4, without the text part 34.8, so that the text part alone does
    nothing. No recall, so truncation is not ruled out.
    """

    name: ClassVar[str] = "ilvad"
    paper: ClassVar[str] = "ICML 2026, arXiv 2605.20965"
    cost: ClassVar[str] = "ten tokens ahead; one more attention row per layer and token"
    search: ClassVar = (
        {"alpha": 2.0},
        {"alpha": 5.0},
        {"alpha": 5.0, "base": 1.0},
        {"alpha": 5.0, "form": "release"},
    )

    alpha: float = option(5.0, "strength on the image", low=0.0, high=10.0)
    base: float = option(0.3, "b, factor of text that is not grounded", low=0.0, high=10.0)
    layers: tuple[int, ...] | None = option(
        None, "layers to act on, from 1 on; by default 5 to 25 of 32, scaled", kind="layers"
    )
    tokens: int = option(10, "tokens to generate ahead", low=2, high=100)
    peak: float = option(
        5.0, "attention that counts, in means over the image", low=0.0, high=1000.0
    )
    form: str = option("paper", "as written, or as released", choices=("paper", "release"))

    @classmethod
    def neutral(cls) -> Self:
        """Return factors of 1."""
        return cls(alpha=0.0, base=1.0)

    @property
    def _acts(self) -> bool:
        return self.alpha != 0 or self.base != 1

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on."""
        return later_layers(geometry, 5, 26) if self.layers is None else self.layers

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse layer 0."""
        refuse_layer_0(self.chosen_layers(geometry), self.name)

    def on_prompt(self, request: Request) -> None:
        """Generate ahead, and make the map."""
        if not self._acts:
            return
        recorder = _Recorder()
        alive = request.probe(self.tokens, recorder).alive
        total = torch.zeros(request.image_mask.shape, device=request.image_mask.device)
        for step, layers in recorder.found.items():
            jumps = self._jumps([layers[layer].to(total) for layer in sorted(layers)], request)
            total = total + jumps * alive[:, step, None].to(total)
        request.scratch(self)["map"] = scaled(total, request.image_mask)

    def _jumps(self, layers: list[Tensor], request: Request) -> Tensor:
        """Return how much more [B, S] each layer gives than the one before, summed up."""
        image = request.image_mask
        count = image.sum(dim=1, keepdim=True).clamp(min=1)
        given = torch.stack(layers)  # [L, B, S]
        peaks = given * (given > self.peak * given.sum(dim=-1, keepdim=True) / count)
        jumps = (peaks[1:] - peaks[:-1]).clamp(min=0).sum(dim=0)
        if self.form == "release":
            mean = given.mean(dim=0)
            jumps = jumps * (mean > mean.sum(dim=-1, keepdim=True) / count)
        return jumps

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Weigh tokens by what the evidence heads of their rows see, and edit the last row."""
        if not self._acts:
            return rows
        scratch, weights, image = request.scratch(self), rows.weights, rows.image_keys
        keys, last = weights.shape[-1], weights.shape[2]
        layers = self.chosen_layers(request.geometry)
        if scratch.get("step") != request.step:
            self._begin(request, weights)
        sight = request.prompt_keys(scratch["map"].to(weights.device), keys) * self.alpha
        sight = at_least_float32(sight * image)[:, None, None]
        seen = at_least_float32(weights.nan_to_num()) * image[:, None, None]
        gazed = (seen * sight).sum(dim=-1)
        evidence = _leading(gazed / seen.sum(dim=-1).clamp(min=1e-12))
        worth = (_mean_of(seen, evidence) * sight[:, 0]).sum(dim=-1)
        worth = torch.where(rows.editable, worth, 0)
        scratch["now"] = scratch["now"].to(worth) + F.pad(
            worth, (scratch["now"].shape[1] - last, 0)
        )
        if layer not in layers:
            return rows
        if layer == layers[0]:
            order = came_from(request, scratch, rows.values)
            scratch["before"] = scratch["before"][order.to(scratch["before"].device)]
        factor = torch.where(evidence[..., None], sight.exp(), 1.0)
        grounded, text = self._grounded(request, keys)
        reading = _leading((weights.nan_to_num() * text[:, None, None]).sum(dim=-1))
        part = reading[..., None] & text[:, None, None]
        factor = torch.where(part, (grounded + self.base)[:, None, None], factor).to(weights)
        edited = weights * factor
        total = weights.sum(dim=-1, keepdim=True) / edited.sum(dim=-1, keepdim=True).clamp(1e-12)
        place = predicting_rows(request, last)[:, None]
        return rows.with_weights(torch.where(place, edited * total, weights))

    def _begin(self, request: Request, like: Tensor) -> None:
        """Begin a forward pass: what the rows before it were worth, and nothing yet of its own."""
        scratch = request.scratch(self)
        if not request.is_prefill and not request.cached:
            raise VlmHeadsError(
                f"{self.name}: a forward pass without a cache",
                "a generation with one, whose rows keep what they were worth",
                "leave use_cache unset",
            )
        refuse_drafts(request, self.name)
        new = request.seen - request.cached
        empty = torch.zeros(len(like), 0, device=like.device)
        parts = [scratch.get("before", empty), scratch.get("now", empty)]
        scratch["before"] = torch.cat([part.to(like.device) for part in parts], dim=1)
        scratch["now"] = torch.zeros(len(like), new, device=like.device)
        scratch["step"] = request.step

    def _grounded(self, request: Request, keys: int) -> tuple[Tensor, Tensor]:
        """Return how grounded each key is, from 0 to 1, and which are text after the image."""
        scratch = request.scratch(self)
        now: Tensor = scratch["now"]
        worth = torch.cat([scratch["before"].to(now), now], dim=1)  # [B, seen]
        if self.form == "release":
            end = request.prompt_length - 1
            worth = torch.cat(
                [worth[:, :end], torch.zeros_like(worth[:, :1]), worth[:, end:-1]], dim=1
            )
        column = torch.arange(request.seen, device=now.device)
        text = column >= request.text_start.to(now.device)[:, None]
        found = to_unit(worth, text)
        dropped = max(0, request.seen - keys)
        more = (0, keys - request.seen + dropped)
        return F.pad(found[:, dropped:], more), F.pad(text[:, dropped:], more)


def _leading(values: Tensor) -> Tensor:
    """Return the `top_half` of the heads, rounding aside: where all see text alone, all see 1."""
    return top_half((at_least_float32(values) * 1e5).round())


def _mean_of(weights: Tensor, heads: Tensor) -> Tensor:
    """Return the mean [B, Q, K] of weights [B, H, Q, K] over heads [B, H, Q]."""
    chosen: Any = heads[..., None]
    mean: Tensor = (weights * chosen).sum(dim=1) / heads.sum(dim=1)[..., None]
    return mean
