"""VISTA: a visual steering vector in the layers, and the logits of the layers before the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request
from vlmheads_plugins._contrast import settle
from vlmheads_plugins._exits import keep_output, kept_outputs, normed

# What a length is at least before something is divided by it.
_TINY = 1e-12


@dataclass(frozen=True)
class VISTA(Plugin):
    """Steer every layer towards what the image adds, and mix in the logits of late layers.

    Steering vector: v_l = h_l(prompt) − h_l(prompt without images), the output of layer l at the
    last position, from two passes without plugins. In `form="paper"` the residual stream after
    each layer becomes h' = (h + λ v_l) · ‖h‖ / ‖h + λ v_l‖. In `form="release"` it is the output x
    of each MLP: with u = x / ‖x‖, u' = u + λ (1 + max(0, cos(x, −v_l))) v_l / ‖v_l‖ and
    x' = ‖x‖ u' / ‖u'‖. All positions are steered, those of the prompt too. `prompt=False` leaves
    the prompt as it is and steers from the second new token on: the prefill is then the pass with
    the image, other plugins' edits included, and one prefill is saved. **Our own variant.**

    Self-logits augmentation: õ = (1 − γ) o + γ (1/w) Σ_l W h_l over the w layers before the last,
    W the vocabulary head. `strength=0` leaves only this; `gamma=0` leaves only the steering.

    Source: Li et al., ICML 2025, arXiv 2502.03628, and LzVv123456/VISTA. w is 5 of 32 layers in the
    paper and 6 in the release, scaled to the model's depth.

    Deviations: the paper does not say whether h_l is normed before W; the release does not, nor do
    we by default (`norm`). The release's vector comes from a principal component routine that adds
    ±1 to the first dimension of the first layer; that is left out. It also refuses batches; here
    each row has its vector.

    Cost: one prefill more with the image, unless the prompt is left alone, and one without, then an
    addition per layer and token, and one call of the vocabulary head per token (it is linear, so
    that the layers are averaged before it).

    Evidence: CHAIR 46.4/12.1 to 20.4/6.9 on LLaVA-1.5-7B in the paper, whose own table shows
    caption F1 fall to about 46 at that setting. A user measured 36.0/12.1 with much repetition;
    the author answers that 0.1 to 0.15 work better than 0.17. POPE was run at λ = 0.01.
    """

    name: ClassVar[str] = "vista"
    paper: ClassVar[str] = "Li et al., ICML 2025, arXiv 2502.03628"
    cost: ClassVar[str] = "two prefills, then one vocabulary head per token"
    search: ClassVar = ({"strength": 0.05}, {"strength": 0.1}, {"strength": 0.17})

    strength: float = option(0.17, "how far to steer; 0 turns steering off", low=0.0, high=10.0)
    gamma: float = option(0.3, "share of late layers' logits; 0 turns them off", low=0.0, high=1.0)
    form: str = option(
        "paper", "steer the residual stream, or MLP outputs", choices=("paper", "release")
    )
    window: int | None = option(
        None,
        "w, layers before the last whose logits are averaged; default 5 (release 6) of 32",
        kind="int",
        low=1,
        high=1000,
    )
    norm: bool = option(False, "apply the decoder's last norm before the vocabulary head")
    prompt: bool = option(True, "steer the prompt, too; without, from the second new token on")

    @classmethod
    def neutral(cls) -> Self:
        """Return neither steering nor augmentation."""
        return cls(strength=0.0, gamma=0.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a window that the model's layers do not hold."""
        last = geometry.layers - 1
        if self.gamma and not 1 <= self._window(geometry) <= last:
            raise VlmHeadsError(
                f"{self.name}: a window of {self._window(geometry)} layers before the last",
                f"from 1 to {last} ({geometry.model_type} has {geometry.layers} layers)",
                "set window, or gamma=0",
            )

    def _window(self, geometry: Geometry) -> int:
        """Return w: the one given, or the source's, scaled to the model's depth."""
        if self.window is not None:
            return self.window
        return max(1, round(geometry.layers * (6 if self.form == "release" else 5) / 32))

    def late_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers whose logits are averaged."""
        return tuple(range(geometry.layers - 1 - self._window(geometry), geometry.layers - 1))

    def on_prompt(self, request: Request) -> None:
        """Take the difference that the images make to each layer's output."""
        if not self.strength:
            return
        layers = range(request.geometry.layers)
        if self.form == "release" and None in request.anatomy.mlps:
            raise VlmHeadsError(
                f"{self.name}: {request.geometry.model_type} has layers without a known MLP",
                "layers with an attribute mlp for form='release'",
                "use form='paper'",
            )
        blind = request.text_only_forward(hidden=layers).hidden
        scratch = request.scratch(self)
        scratch["blind"], scratch["steps"] = blind, {}
        scratch["mixed"] = not bool(request.has_image.all())
        if self.prompt:
            seen = request.image_forward(hidden=layers).hidden
            for layer in layers:
                self._learn(request, layer, seen[layer])

    def _learn(self, request: Request, layer: int, seen: Tensor) -> None:
        """Keep the step of a layer, from its output [B, E] at the end of the prompt."""
        scratch = request.scratch(self)
        vector = at_least_float32(seen) - at_least_float32(scratch["blind"].pop(layer))
        if self.form == "release":
            vector = F.normalize(vector, dim=-1)
        scratch["steps"][layer] = self.strength * vector[:, None]

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Steer, and remember the outputs of the late layers."""
        if self.strength and not self.prompt and request.is_prefill and site == "residual":
            self._learn(request, layer, hidden[:, request.last])
        if self.strength and site == ("mlp" if self.form == "release" else "residual"):
            hidden = self._steered(request, layer, hidden)
        if self.gamma and site == "residual" and layer in self.late_layers(request.geometry):
            keep_output(request, self, layer, hidden)
        return hidden

    def _steered(self, request: Request, layer: int, hidden: Tensor) -> Tensor:
        """Return [B, S, E] with those positions steered that are to be."""
        # Without a cache the prompt comes along in every pass.
        first = 0 if self.prompt else request.prompt_length - (request.seen - hidden.shape[1])
        if first >= hidden.shape[1]:
            return hidden
        scratch = request.scratch(self)
        if layer not in scratch["steps"]:
            raise VlmHeadsError(
                f"{self.name}: form='release' and prompt=False in a prefill with drafted tokens, "
                "whose MLPs run before their layer's step is known",
                "one token per step",
                "leave prompt_lookup_num_tokens unset",
            )
        steer = _steer_mlp if self.form == "release" else _steer_residual
        given = hidden[:, max(first, 0) :]
        edited = steer(at_least_float32(given), scratch["steps"][layer]).to(hidden.dtype)
        if scratch["mixed"]:
            edited = torch.where(request.has_image.to(hidden.device)[:, None, None], edited, given)
        return torch.cat([hidden[:, :first], edited], dim=1) if first > 0 else edited

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Mix in the mean logits of the late layers."""
        if not self.gamma:
            return logits
        outputs = kept_outputs(request, self, self.late_layers(request.geometry))
        if self.norm:
            outputs = normed(request, outputs)
        late = request.anatomy.unembed(outputs.mean(dim=1), norm=False)
        mixed = (1 - self.gamma) * at_least_float32(logits) + self.gamma * at_least_float32(late)
        return settle(request, mixed, logits)


def _steer_residual(hidden: Tensor, step: Tensor) -> Tensor:
    """Add a step [B, 1, E] to the residual stream [B, S, E] and restore its length."""
    moved = hidden + step
    return moved * (_length(hidden) / _length(moved).clamp(min=_TINY))


def _steer_mlp(output: Tensor, step: Tensor) -> Tensor:
    """Turn an MLP's output by a step, the more where it points away from it."""
    length = _length(output)
    direction = output / length.clamp(min=_TINY)
    away = F.cosine_similarity(output, -step, dim=-1).clamp(min=0)[..., None]
    moved = direction + (1 + away) * step
    return moved * (length / _length(moved).clamp(min=_TINY))


def _length(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return length
