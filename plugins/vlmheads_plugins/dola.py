"""DoLa: contrast the last layer with an earlier one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request
from vlmheads_plugins._contrast import plausible, settle
from vlmheads_plugins._exits import keep_output, kept_outputs


@dataclass(frozen=True)
class DoLa(Plugin):
    """Contrast the logits with those of an earlier layer.

        log p' = log p − strength · log q_M

    with q_j = softmax(W h_j) for candidate layers j, W the vocabulary head, without the last norm.
    The layer M whose q_M is farthest from the model's own p by Jensen-Shannon divergence is chosen
    anew for every token. Tokens with p below `cutoff` times the largest are left out.

    With m = (p + q_M) / 2 the paper's divergence is ½ KL(p‖m) + ½ KL(q_M‖m), which is the default.
    The release calls its function with the arguments the other way round and so chooses by
    KL(m‖p) + KL(m‖q_M): `form="release"`.

    Source: decoding by contrasting layers, Chuang et al., ICLR 2024, arXiv 2309.03883, and
    voidism/DoLa: even layers of the lower half of 32 (long answers) or of the upper half (short
    ones), where layer 0 is the word embeddings and j the output of the j-th layer.

    Deviations: layer 0 is left out where the embeddings are also the vocabulary head, and elsewhere
    is taken before any factor that a model applies to it. The layer is chosen for each row of a
    batch, where common implementations choose one for all. The repetition penalty of 1.2 that the
    paper adds is left to generate().

    Cost: one call of the vocabulary head per token, for all candidates together.

    Evidence: made for text models. On LLaVA-1.5-7B CHAIR 46.4/12.1 to 45.4/11.9 (VISTA's authors)
    and 49.7/14.3 to 50.9/14.6 (VHR's). A third party's captions, scored again (docs/evidence.md),
    are worse than another repository's greedy ones, CHAIR_S at equal recall +14.5 points [+8.9,
    +19.7].
    """

    name: ClassVar[str] = "dola"
    paper: ClassVar[str] = "Chuang et al., ICLR 2024, arXiv 2309.03883"
    cost: ClassVar[str] = "one vocabulary head per token and candidate layer"
    search: ClassVar = ({"strength": 0.25}, {"strength": 0.5}, {"strength": 1.0})

    strength: float = option(1.0, "share of the contrast; 0 is none", low=0.0, high=10.0)
    cutoff: float = option(
        0.1, "least probability of a token as a share of the largest", low=0.0, high=1.0
    )
    half: str = option(
        "lower", "which half of the layers has the candidates", choices=("lower", "upper")
    )
    form: str = option(
        "paper",
        "choose the layer by the paper's Jensen-Shannon divergence, or by the release's divergence",
        choices=("paper", "release"),
    )
    layers: tuple[int, ...] | None = option(
        None,
        "candidates, 0 the word embeddings; by default every second of the half",
        kind="layers",
    )

    def idle_options(self) -> dict[str, str]:
        """Layers take the place of a half."""
        return {} if self.layers is None else {"half": "no layers"}

    @classmethod
    def neutral(cls) -> Self:
        """Return no contrast and no cut-off."""
        return cls(strength=0.0, cutoff=0.0)

    def chosen_layers(self, layers: int, tied: bool) -> tuple[int, ...]:
        """Return the candidates: those given, or every second of the half.

        Args:
            layers: layers of the decoder.
            tied: whether the word embeddings are the vocabulary head too.
        """
        if self.layers is not None:
            return self.layers
        middle = layers // 2
        if self.half == "upper":
            return tuple(range(middle, layers, 2))
        return tuple(range(2 * tied, middle, 2)) or (middle,)

    def on_prompt(self, request: Request) -> None:
        """Choose the candidates."""
        model: Any = request.anatomy.model
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        request.scratch(self)["layers"] = self.chosen_layers(request.geometry.layers, tied)

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Remember the outputs of the candidates."""
        if self.strength and site == "residual" and layer + 1 in request.scratch(self)["layers"]:
            keep_output(request, self, layer, hidden)
        return hidden

    def _outputs(self, request: Request) -> Tensor:
        """Return what the candidates gave for the next token, [B, layers, E]."""
        layers: tuple[int, ...] = request.scratch(self)["layers"]
        parts = []
        if layers[0] == 0:
            model: Any = request.anatomy.model
            parts.append(model.get_input_embeddings()(request.ids[:, request.column])[:, None])
        if outputs := tuple(layer - 1 for layer in layers if layer > 0):
            parts.append(kept_outputs(request, self, outputs))
        return torch.cat([part.to(parts[-1].device) for part in parts], dim=1)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Contrast the next token with the layer that is farthest."""
        if not self.strength and not self.cutoff:
            return logits
        edited = last = at_least_float32(logits).log_softmax(dim=-1)
        if self.strength:
            early = at_least_float32(request.anatomy.unembed(self._outputs(request), norm=False))
            early = early.log_softmax(dim=-1)
            measure = divergence if self.form == "paper" else reverse_divergence
            farthest = measure(last[:, None], early).argmax(dim=1)
            index = farthest[:, None, None].expand(-1, 1, early.shape[-1])
            edited = last - self.strength * early.gather(1, index)[:, 0]
        return settle(request, edited, logits, plausible(last, self.cutoff))


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence [...] of two log-probabilities [..., V], in nats."""
    middle = torch.logaddexp(one, other) - math.log(2)

    def towards(log: Tensor) -> Tensor:
        # A token that the model itself leaves out has probability 0 and adds nothing.
        return (log.exp() * (log - middle)).masked_fill(log == -torch.inf, 0).sum(dim=-1)

    return (towards(one) + towards(other)) / 2


def reverse_divergence(one: Tensor, other: Tensor) -> Tensor:
    """KL divergences of the mean of two log-probabilities [..., V] from each, added up, in nats."""
    middle = torch.logaddexp(one, other) - math.log(2)

    def away(log: Tensor) -> Tensor:
        # A token that the model itself leaves out would be infinitely far in every layer.
        return (middle.exp() * (middle - log)).masked_fill(log == -torch.inf, 0).sum(dim=-1)

    return away(one) + away(other)
