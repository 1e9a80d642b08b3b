"""RUDDER: push answer tokens along what attention added to the prompt."""

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

LEAST, MOST = 0.05, 1.0  # Bounds of the gate.


@dataclass(frozen=True)
class RUDDER(Plugin):
    """Push a layer's states along the prompt's mean attention output, where they agree with it.

    At one layer l, with o_i the output of its attention (after the output projection) at token i
    of the prompt, v is the mean of the o_i, image and text, scaled to length 1. At every answer
    token, with h the residual stream after o is added to it,

        c = cos(h, v),  p = softplus(k c + b),  q = softplus(b − k c),
        g = p / (p + q), cut to 0.05..1,        h ← h + α g v.

    `gate=False` is the authors' RUDDER-Add, g = 1.

    Source: residual-update directed decoding regulation, ICML 2026, arXiv 2511.10292: l = 30 of 32,
    α = 20, k = 5, b = 1 for LLaVA-1.5-7B; 28, 8 and 5 for Idefics2; 1, 6.5 and 8 for InstructBLIP.
    The code of the same name (Akko000/RUDDER-...) computes something else, which is
    `form="release"`: o_i minus the input of the attention (the normed state) in place of o_i; a
    mean weighted by the norms; the cosine of o in place of h; v from a forward pass of its own,
    which is the same. Its bounds of the gate differ by file; they are the paper's here. Written
    from the formulas: no licence is stated.

    Deviations: `scale="residual"`, the default, takes α as a share of the mean length of the
    prompt's residual states at that layer, since 20 is a length on LLaVA-1.5-7B alone;
    `scale="absolute"` is the paper's.

    Pitfalls: layer 0 is refused.

    Cost: nothing to speak of; the authors keep 96.8 % of the throughput.

    Evidence: the authors' table with a CHAIR script of their own, settings chosen on 100 images
    where recall stayed above 95 % of the plain model's: LLaVA-1.5-7B greedy 48.6/13.6 to 39.5/10.5,
    sampling 55.6/16.0 to 39.9/11.0; Idefics2 46.6/14.9 to 28.4/10.9; Qwen2.5-VL 35.2/9.5 to
    26.9/7.0. No recall in the tables, and nobody else's run known to us.
    """

    name: ClassVar[str] = "rudder"
    paper: ClassVar[str] = "ICML 2026, arXiv 2511.10292"
    cost: ClassVar[str] = "no extra pass"
    search: ClassVar = (
        {"alpha": 0.1},
        {"alpha": 0.3},
        {"alpha": 0.3, "form": "release"},
        {"alpha": 1.0},
    )

    alpha: float = option(0.3, "strength; 0 is none", low=0.0, high=1000.0)
    scale: str = option(
        "residual",
        "alpha is a share of the residual states' length, or a length itself",
        choices=("residual", "absolute"),
    )
    layer: int | None = option(
        None, "where to act; by default 30 of 32, scaled to the depth", kind="int", low=0
    )
    gate: bool = option(True, "weaken the push where the state does not point along it")
    steepness: float = option(5.0, "k, how sharp the gate is", low=0.0, high=100.0)
    bias: float = option(1.0, "b, how far open the gate is in between", low=-10.0, high=10.0)
    form: str = option("paper", "as written, or as released", choices=("paper", "release"))

    def idle_options(self) -> dict[str, str]:
        """Without a gate it has no shape."""
        return {} if self.gate else {"steepness": "gate=True", "bias": "gate=True"}

    @classmethod
    def neutral(cls) -> Self:
        """Return a push of nothing."""
        return cls(alpha=0.0)

    def chosen_layer(self, geometry: Geometry) -> int:
        """Return the layer to act on."""
        return geometry.scaled(30, 31)[0] if self.layer is None else self.layer

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a layer without attention, and layer 0, before which there is no other."""
        layer = self.chosen_layer(geometry)
        geometry.check_layers((layer,), f"{self.name}: layer={layer}", attention=True)
        if layer == 0:
            raise VlmHeadsError(f"{self.name}: layer=0", "a layer with one before it, from 1 on")

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Measure v in the prefill, and push answer tokens along it."""
        chosen = self.chosen_layer(request.geometry)
        if not self.alpha:
            return hidden
        scratch = request.scratch(self)
        if site == "residual" and layer == chosen - 1:
            scratch["before"] = hidden
            return hidden
        if site != "attention" or layer != chosen:
            return hidden
        before = at_least_float32(scratch.pop("before"))
        column = torch.arange(request.seen - hidden.shape[1], request.seen, device=hidden.device)
        answers = column >= request.prompt_length
        wide = at_least_float32(hidden)
        if request.is_prefill:
            prompt = request.real_rows(hidden.shape[1]) & ~answers
            scratch["direction"], scratch["length"] = self._direction(
                request, wide, before, prompt.to(hidden.device)
            )
        if request.seen <= request.prompt_length:
            return hidden
        direction: Tensor = scratch["direction"][:, None]
        state = wide if self.form == "release" else wide + before
        pushed = wide + scratch["length"] * self._gate(state, direction) * direction
        place = answers & request.has_image.to(hidden.device)[:, None]
        return torch.where(place[..., None], pushed.to(hidden.dtype), hidden)

    def _direction(
        self, request: Request, output: Tensor, before: Tensor, prompt: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        """Return v [B, E], and how long a full push is: a number, or [B, 1, 1].

        Args:
            request: of the generation.
            output: of the attention, [B, S, E].
            before: the residual stream that enters the layer, [B, S, E].
            prompt: [B, S] True for tokens of the prompt.
        """
        if self.form == "release":
            output = output - at_least_float32(request.entering)
            weight = output.norm(dim=-1) * prompt
        else:
            weight = prompt.to(output.dtype)
        # Padding may hold anything, also what is no number.
        summed = (weight[..., None] * output.masked_fill(~prompt[..., None], 0)).sum(dim=1)
        direction = F.normalize(summed, dim=-1)
        if self.scale == "absolute":
            return direction, self.alpha
        lengths = before.norm(dim=-1).masked_fill(~prompt, 0).sum(dim=1)
        mean = lengths / prompt.sum(dim=1).clamp(min=1)
        return direction, self.alpha * mean[:, None, None]

    def _gate(self, state: Tensor, direction: Tensor) -> Tensor | float:
        """Return g [B, S, 1] for states [B, S, E]."""
        if not self.gate:
            return 1.0
        cosine = F.cosine_similarity(state, direction, dim=-1)[..., None]
        towards = F.softplus(self.steepness * cosine + self.bias)
        against = F.softplus(self.bias - self.steepness * cosine)
        return (towards / (towards + against)).clamp(LEAST, MOST)
