"""VGA: add to each head what the image tokens say by themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

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
from vlmheads_plugins._mix import mixed

_TOP = 10  # Probabilities whose entropy is taken.
_CHUNK = 64  # Image tokens at a time through the vocabulary head.
_TINY = 1e-12


@dataclass(frozen=True)
class VGA(Plugin):
    """Add image values to the heads of middle layers, weighted by what the image tokens read as.

    The prefill's last layer, read through the last norm and the vocabulary head, gives each image
    token i a distribution p_i over words, and these a grounding map G, which sums to 1:

    * for captions G_i ∝ −Σ p log p / log 10 over its ten largest probabilities
      (`map="entropy"`), or 1 minus that (`"certainty"`): the sources disagree about the sign;
    * with `objects`, the first tokens of the words that a question asks for, the largest over them
      of p_i(o) / Σ_i p_i(o).

    After each new token u, G ← max((1 + κ) G − κ p_i(u) / Σ_i p_i(u), 0), scaled to sum 1: what has
    been said is taken off. In the middle layers, for each head with output z_h and values v_h,

        δ_h = Σ_i G_i v_h(i),  w_h = (1 + cos(δ_h, z_h)) / 2,  w ← H w / Σ w,
        z_h ← z_h + β · (share of image tokens with G > 0) · max(2 − w_h, 0) · δ_h.

    Source: vision-guided attention, CVPR 2026, arXiv 2511.20032; the code (beta-nlp/VGA) was not to
    be had. Formulas from a port to Qwen3-VL that follows it, and from a description: β = 0.2 (0.25
    for POPE and larger models), κ = 0.02, layers 2 to 16 of LLaVA-1.5, 4 to 16 of Qwen2.5-VL, 0 to
    16 of LLaVA-NeXT, the end taken as included.

    Deviations: G is known once the prefill is over, so the edit begins with the row of the first
    new token, which predicts the second. The original edits the row of the last prompt token too,
    in a second call of the model, for which a plugin has no place: **answers of one token, such as
    POPE's, come out unedited.**

    Pitfalls: layer 0 is refused, where beams cannot be told apart, and so are drafts of several
    tokens.

    Cost: the vocabulary head of every image token in the prefill, whose probabilities are kept (37
    MB for 576 tokens and 32,000 words in half precision); one attention row in the middle layers
    and for each token. The authors say 4.4 % of the time.

    Evidence: claims on POPE and captions; no CHAIR figure was to be had.
    """

    name: ClassVar[str] = "vga"
    paper: ClassVar[str] = "CVPR 2026, arXiv 2511.20032"
    cost: ClassVar[str] = "a vocabulary head per image token; an attention row per middle layer"
    search: ClassVar = (
        {"beta": 0.1},
        {"beta": 0.2},
        {"beta": 0.2, "map": "certainty"},
        {"beta": 0.5},
    )

    beta: float = option(0.2, "strength; 0 is none", low=0.0, high=100.0)
    kappa: float = option(0.02, "how much of G each new token takes off", low=0.0, high=1.0)
    map: str = option("entropy", "what an image token counts by", choices=("entropy", "certainty"))
    objects: tuple[int, ...] = option(
        (), "first tokens of the words that G is to be of; by default captions' form", kind="tokens"
    )
    layers: tuple[int, ...] | None = option(
        None, "layers to act on, from 1 on; by default 2 to 16 of 32, scaled", kind="layers"
    )

    def idle_options(self) -> dict[str, str]:
        """Objects have a map of their own."""
        return {"map": "no objects"} if self.objects else {}

    @classmethod
    def neutral(cls) -> Self:
        """Return an addition of nothing."""
        return cls(beta=0.0)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on."""
        return later_layers(geometry, 2, 17) if self.layers is None else self.layers

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse layer 0."""
        refuse_layer_0(self.chosen_layers(geometry), self.name)

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Make the map, from the last layer of the prefill."""
        last = site == "residual" and layer == request.geometry.layers - 1
        if not self.beta or not request.is_prefill or not last:
            return hidden
        refuse_drafts(request, self.name)
        if hidden.shape[1] != request.seen:
            raise VlmHeadsError(
                f"{self.name}: a last layer of {hidden.shape[1]} of {request.seen} tokens",
                "a model whose last layer runs on the whole prompt",
            )
        visual = request.image_mask.to(hidden.device)
        count = int(visual.sum(dim=1).max())
        # Image columns first, in their order; rows with fewer are filled up.
        columns = visual.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        held = visual.gather(1, columns)
        states = hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))
        # Of each token's probabilities what G needs, and all of them where tokens are taken off it.
        words: Tensor | None = None
        counted = []
        for start in range(0, count, _CHUNK):
            part = slice(start, start + _CHUNK)
            made = at_least_float32(request.anatomy.unembed(states[:, part], norm=True))
            made = made.softmax(dim=-1)
            counted.append(self._counted(made))
            if self.kappa:
                words = hidden.new_empty(*held.shape, made.shape[-1]) if words is None else words
                words[:, part] = made
        scratch = request.scratch(self)
        scratch["columns"], scratch["held"], scratch["words"] = columns, held, words
        shares = torch.cat(counted, dim=1) * held[..., None]  # [B, N, objects or 1]
        scratch["first"] = _to_one(_to_one(shares).amax(dim=-1))
        return hidden

    def _counted(self, words: Tensor) -> Tensor:
        """Return what tokens count by, [B, n, objects or 1], of their probabilities [B, n, V]."""
        if self.objects:
            return words[..., list(self.objects)]
        top = words.topk(min(_TOP, words.shape[-1]), dim=-1).values
        entropy: Tensor = torch.special.entr(top).sum(dim=-1, keepdim=True) / math.log(_TOP)
        return entropy if self.map == "entropy" else (1 - entropy).clamp(min=0)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Add to the weights on the image, once a token has been said."""
        layers = self.chosen_layers(request.geometry)
        if not self.beta or layer not in layers:
            return rows
        scratch = request.scratch(self)
        if layer == layers[0]:
            order = came_from(request, scratch, rows.values)
            if not request.is_prefill:
                self._follow(request, order)
        if request.is_prefill:
            return rows
        weights = rows.weights
        said = request.seen - request.prompt_length
        maps: Tensor = scratch["maps"][:, -min(said, weights.shape[2]) :].to(weights)
        later = maps.shape[1]
        grounding = self._on_keys(request, maps, weights.shape[-1])[:, None]  # [B, 1, q, K]
        own = mixed(weights[:, :, -later:], rows.values)
        image = mixed(grounding.expand(-1, weights.shape[1], -1, -1), rows.values)
        alike = (
            1 + F.cosine_similarity(at_least_float32(image), at_least_float32(own), dim=-1)
        ) / 2
        alike = alike * alike.shape[2] / alike.sum(dim=2, keepdim=True).clamp(min=_TINY)
        share = (maps > 0).sum(dim=-1) / scratch["held"].sum(dim=1).clamp(min=1)[:, None].to(maps)
        gain = self.beta * share[..., None] * (2 - alike).clamp(min=0)  # [B, q, H]
        added = gain.transpose(1, 2)[..., None] * grounding
        return rows.with_weights(
            torch.cat([weights[:, :, :-later], weights[:, :, -later:] + added.to(weights)], dim=2)
        )

    def _follow(self, request: Request, order: Tensor) -> None:
        """Bring the maps [B, tokens, N], one for each token said so far, up to this pass."""
        scratch = request.scratch(self)
        if request.cached:
            refuse_drafts(request, self.name)
        first: Tensor = scratch["first"]
        known = max(request.cached - request.prompt_length, 0)
        before: Tensor = scratch.get("maps", first[:, None][:, :0])
        maps = list(before[order.to(first.device), :known].unbind(dim=1))
        new = request.seen - request.prompt_length - known
        for token in request.ids[:, -new:].to(first.device).unbind(dim=1):
            last = maps[-1] if maps else first
            maps.append(self._without(last, scratch["words"], scratch["held"], token))
        scratch["maps"] = torch.stack(maps, dim=1)

    def _without(
        self, grounding: Tensor, words: Tensor | None, held: Tensor, token: Tensor
    ) -> Tensor:
        """Take a token [B] off a map [B, N], by the probabilities [B, N, V] of words."""
        if words is None:
            return grounding
        index = token[:, None, None].expand(-1, words.shape[1], 1)
        said = at_least_float32(words.gather(2, index)[..., 0]) * held
        return _to_one(((1 + self.kappa) * grounding - self.kappa * _to_one(said)).clamp(min=0))

    def _on_keys(self, request: Request, maps: Tensor, keys: int) -> Tensor:
        """Lay maps [B, q, N] out on the keys [B, q, K] that a layer holds."""
        columns: Tensor = request.scratch(self)["columns"].to(maps.device)
        wide = maps.new_zeros(*maps.shape[:2], request.prompt_length)
        wide.scatter_add_(2, columns[:, None].expand(-1, maps.shape[1], -1), maps)
        dropped = max(0, request.seen - keys)
        part = wide[..., dropped : dropped + keys]
        return F.pad(part, (0, keys - part.shape[-1]))


def _to_one(values: Tensor) -> Tensor:
    """Divide [B, N] or [B, N, n] by its sum over N."""
    return values / values.sum(dim=1, keepdim=True).clamp(min=_TINY)
