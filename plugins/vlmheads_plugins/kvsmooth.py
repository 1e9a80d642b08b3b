"""KVSmooth: average what the cache keeps of a token with that of the token before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._beams import came_from, later_layers, refuse_drafts, refuse_layer_0

SPREAD = 0.2  # How far the strength may be from its reference.


@dataclass(frozen=True)
class KVSmooth(Plugin):
    """Smooth keys and values of generated tokens, the more the less sure attention is.

    In each layer to act on, e_t is the entropy of the attention of token t, averaged over heads,
    over all keys, and r the share of the last `window` tokens with a lower one. With λ = r, cut to
    reference ± 0.2 and to 0..1, once t has been attended for,

        K_t ← (1 − λ) K_t + λ K_(t−1),  V_t ← (1 − λ) V_t + λ V_(t−1),

    where token t − 1 is smoothed already. So it is seen from token t + 1 on. Keys are those that
    the cache holds, rotated by their position, which the average mixes.

    Source: CVPR 2026, arXiv 2602.04268; no code of the authors was found. Formulas from a
    description and from a port to Qwen3-VL: layers 3 to 31 of 32, a window of 15, reference 0.9
    (LLaVA-1.5; InstructBLIP 0.7, MiniGPT-4 0.5). As in the port, the first generated token is left
    as it is. While fewer than `window` tokens were seen, r counts over the window's full size, as
    the formula says.

    Deviations: none known.

    Pitfalls: the method depends on the order of decoding, so that generation without a cache, or
    with a static one, is refused, and so are layer 0, where beams cannot be told apart, and drafts
    of several tokens.

    Cost: one attention row in nearly every layer and for each token.

    Evidence: second-hand from the paper: CHAIR_S 41.8 to 18.2 at F1 77.5 to 79.2, MiniGPT-4 31.8
    to 17.0; with keys alone 35.6 at F1 79.4. Nobody else's run known to us.
    """

    name: ClassVar[str] = "kvsmooth"
    paper: ClassVar[str] = "CVPR 2026, arXiv 2602.04268"
    cost: ClassVar[str] = "one more attention row in nearly every layer and for each token"
    search: ClassVar = ({"reference": 0.3}, {"reference": 0.6}, {"reference": 0.9})

    reference: float = option(0.9, "the strength around which it moves", low=0.0, high=1.0)
    window: int = option(15, "tokens whose entropies are compared", low=1, high=1000)
    strength: float = option(1.0, "factor on all strengths; 0 is none", low=0.0, high=1.0)
    layers: tuple[int, ...] | None = option(
        None, "layers to act on, from 1 on; by default 3 to 31 of 32, scaled", kind="layers"
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a factor of nothing."""
        return cls(strength=0.0)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on."""
        return later_layers(geometry, 3, 32) if self.layers is None else self.layers

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse layer 0."""
        refuse_layer_0(self.chosen_layers(geometry), self.name)

    def on_cache(
        self, request: Request, layer: int, keys: Tensor, values: Tensor, new: int
    ) -> tuple[Tensor, Tensor]:
        """Smooth the last token but one, by what was noted when it was the last."""
        if not self._acts(request, layer):
            return keys, values
        scratch = request.scratch(self)
        if layer == self.chosen_layers(request.geometry)[0]:
            refuse_drafts(request, self.name)
            scratch["order"] = came_from(request, scratch, values)
        kept = scratch.setdefault(f"layer {layer}", {})
        if kept:
            order = scratch["order"].to(keys.device)
            kept["entropies"] = kept["entropies"][order]
            if request.seen - request.prompt_length > 2:
                share = kept["share"][order][:, None, None]
                share = share * request.has_image.to(share)[:, None, None]
                keys, values = _smoothed(keys, share, new), _smoothed(values, share, new)
        return keys, values

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Note how strongly the newest token is to be smoothed."""
        if not self._acts(request, layer) or request.is_prefill:
            return rows
        kept = request.scratch(self).setdefault(f"layer {layer}", {})
        weights = at_least_float32(rows.part(slice(-1, None))).mean(dim=1)[:, 0]
        entropy = torch.special.entr(weights.clamp(min=0)).sum(dim=-1)
        before: Tensor = kept.get("entropies", entropy[:, None][:, :0])[:, -self.window :]
        rank = (before < entropy[:, None]).sum(dim=1) / self.window
        low, high = max(0.0, self.reference - SPREAD), min(1.0, self.reference + SPREAD)
        kept["share"] = self.strength * rank.clamp(low, high)
        kept["entropies"] = torch.cat([before, entropy[:, None]], dim=1)
        return rows

    def _acts(self, request: Request, layer: int) -> bool:
        return bool(self.strength) and layer in self.chosen_layers(request.geometry)


def _smoothed(states: Tensor, share: Tensor, new: int) -> Tensor:
    """Return [B, Hkv, K, D] with the last entry but one averaged with the one before it."""
    share = share.to(states.dtype)
    mixed = (1 - share) * states[:, :, -2] + share * states[:, :, -3]
    if new == 1 and not torch.is_grad_enabled():
        # Nobody else sees this pass: written in place, the cache is not copied for one entry.
        states[:, :, -2] = mixed
        return states[:]
    return torch.cat([states[:, :, :-2], mixed[:, :, None], states[:, :, -1:]], dim=2)
