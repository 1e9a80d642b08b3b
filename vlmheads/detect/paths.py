"""Text paths: what a head alone adds to the log-probability of grounded and invented words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.replay import layered, marks, prefill, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.model.anatomy import examine
from vlmheads.plugin import Plugin
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request

TEXT_PATH = "text-path"


@torch.no_grad()
def text_paths(
    model: Any,
    inputs: Mapping[str, Any],
    targets: Tensor,
    grounded: Tensor,
    hallucinated: Tensor,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> HeadMap:
    """Measure how much each head alone raises grounded words over hallucinated ones.

    At the position that predicts a marked token v, with r the state that enters a layer and c_h
    what head h adds to it (its output times its columns of the output projection),
    s_h = log softmax(W (r + c_h))_v - log softmax(W r)_v, W the vocabulary head, without the last
    norm. A head's score is the mean of s_h over the grounded tokens of all prompts less that over
    the hallucinated ones: heads with a low score work for hallucinated words, and the plugin
    `allpath` suppresses the lowest and boosts the highest.

    Source: the text-to-text score of AllPath, NeurIPS 2025, as SooLab/AllPath computes it.
    Deviations: the answers are given, not generated; every marked token counts, where the release
    takes one token per object word. A norm behind the output projection, as Gemma has, is not
    applied to c_h.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right with any token.
        grounded: [N, T] True on the tokens of objects that are in the image.
        hallucinated: [N, T] True on the tokens of objects that are not.
        provenance: plain values to keep, such as the model id and the prompt.

    Returns:
        One map for all prompts together, in nats.

    Raises:
        VlmHeadsError: shapes that do not fit, not a token of each kind, no image in any prompt, or
            a decoder whose layers cannot be read through its head.
    """
    anatomy = examine(model)
    given = teacher_forced(anatomy, inputs, targets)
    shape = (targets.shape[0], targets.shape[1])
    kinds = torch.stack(
        [marks("grounded", grounded, shape), marks("hallucinated", hallucinated, shape)]
    ).to(given["input_ids"].device)
    if not bool(kinds.any(dim=2).any(dim=1).all()):
        raise VlmHeadsError(
            "targets without a grounded or without a hallucinated word", "some of each"
        )
    probe = _Probe(targets=targets.to(given["input_ids"]), kinds=kinds)
    prefill(model, given, probe)
    scores = layered(((layer, part[None]) for layer, part in probe.found.items()), anatomy.geometry)
    return HeadMap(scores, anatomy.geometry, TEXT_PATH, dict(provenance or {}))


@dataclass(frozen=True, eq=False)
class _Probe(Plugin):
    """Keeps the scores [H] of each layer, of the target tokens [N, T] of two kinds [2, N, T]."""

    name: ClassVar[str] = "text-paths"
    targets: Tensor = field(default_factory=lambda: torch.zeros(0))
    kinds: Tensor = field(default_factory=lambda: torch.zeros(0))
    found: dict[int, Tensor] = field(default_factory=dict)

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Keep the heads [M, H, D] of the positions that predict marked tokens."""
        request.scratch(self)["heads"] = self._predicting(heads)
        return heads

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Read the state that entered a layer [B, S, E], with each head and without."""
        heads = request.scratch(self).pop("heads", None) if site == "residual" else None
        if heads is None:
            return hidden
        anatomy, projection = request.anatomy, request.anatomy.projections[layer]
        entered = self._predicting(request.entering)
        marked = self.kinds.any(dim=0)
        tokens, kinds = self.targets[marked].to(hidden.device), self.kinds[:, marked]
        changes = []
        for state, outputs, token in zip(entered, heads, tokens, strict=True):
            # Each head alone; forward() itself, since the hooks are on the call.
            alone = torch.diag_embed(outputs.T).permute(1, 2, 0).flatten(1)
            assert projection is not None
            nothing = projection.forward(torch.zeros_like(alone[:1]))
            added = projection.forward(alone) - nothing
            states = torch.cat([state[None], state + added.to(state.device)])
            logits = at_least_float32(anatomy.unembed(states, norm=False))
            log = logits.log_softmax(dim=-1)[:, token]
            changes.append(log[1:] - log[0])
        scores = torch.stack(changes).cpu()
        chosen = kinds.cpu().to(scores.dtype)
        means = chosen @ scores / chosen.sum(dim=1, keepdim=True)
        self.found[layer] = means[0] - means[1]
        return hidden

    def _predicting(self, states: Tensor) -> Tensor:
        """Return what stands at the positions that predict marked tokens, [M, ...]."""
        length = self.targets.shape[1]
        return states[:, -length - 1 : -1][self.kinds.any(dim=0).to(states.device)]
