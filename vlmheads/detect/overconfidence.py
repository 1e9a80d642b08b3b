"""Overconfidence: how far the last layer takes back what earlier layers were sure of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmheads.detect.replay import Replay, marks, require_images, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import examine
from vlmheads.precision import at_least_float32

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
KINDS = ("grounded", "hallucinated", "other")


@dataclass(frozen=True, eq=False)
class Overconfidence:
    """What `overconfidence` measured at the W tokens of all answers.

    Args:
        by_layer: [W, L] log-probability of the token as each layer's output gives it, read through
            the last norm and the vocabulary head; the last one's is the model's own.
        undone: [W, len(SHARES)] its log-probability where that share of what the last layer adds is
            taken back.
        kind: [W] index in KINDS.
    """

    by_layer: Tensor
    undone: Tensor
    kind: Tensor

    @property
    def suppression(self) -> Tensor:
        """[W] log p of the surest earlier layer less log p of the last; above 0, it takes back."""
        return self.by_layer[:, :-1].amax(dim=1) - self.by_layer[:, -1]

    @property
    def last_step(self) -> Tensor:
        """[W] what the last layer adds to the token's log-probability."""
        return self.by_layer[:, -1] - self.by_layer[:, -2]

    def of(self, kind: str, values: Tensor) -> Tensor:
        """Return the values of the tokens of a kind."""
        return values[self.kind == KINDS.index(kind)]

    @classmethod
    def concatenate(cls, parts: Sequence[Overconfidence]) -> Overconfidence:
        """Join what was measured on several batches.

        Raises:
            VlmHeadsError: none to join.
        """
        if not parts:
            raise VlmHeadsError("no answer was measured", "at least one")
        names = ("by_layer", "undone", "kind")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@torch.no_grad()
def overconfidence(
    model: Any, inputs: Mapping[str, Any], targets: Tensor, grounded: Tensor, hallucinated: Tensor,
    words: Tensor | None = None,
) -> Overconfidence:  # fmt: skip
    """Measure what each layer gives the tokens of an answer, and what the last one takes back.

    At the position that predicts a token, the output h_l of every layer is read through the last
    norm and the vocabulary head. Undoing a share a of the last layer reads h = (1 - a) h_{L-1} +
    a h_{L-2}, layers counted from 0.

    Source: the anti-overconfidence mechanism of last layers, "Interpreting Key Mechanisms of
    Factual Recall in Transformer-Based Language Models", arXiv 2403.19521, known to us from its
    description. Deviations: words of captions in place of factual prompts, and grounded and
    hallucinated ones apart; the last layer is taken as a whole, where the source tells its
    attention from its MLP.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right.
        grounded: [N, T] True on the tokens of objects that are in the image.
        hallucinated: [N, T] True on the tokens of objects that are not.
        words: [N, T] True on the tokens to measure; by default the marked ones alone. What is
            among them and not marked is of the kind "other".

    Raises:
        VlmHeadsError: shapes that do not fit, no token to measure, no image in any prompt, a
            decoder of one layer, or one that cannot be read through its head.
    """
    given = teacher_forced(examine(model), inputs, targets)
    shape = (targets.shape[0], targets.shape[1])
    right, wrong = marks("grounded", grounded, shape), marks("hallucinated", hallucinated, shape)
    chosen = (right | wrong) if words is None else marks("words", words, shape)
    if not bool(chosen.any()):
        raise VlmHeadsError("targets without a token to measure", "a marked one")
    replay = Replay.of(model, given)
    require_images(replay.anatomy, given)
    anatomy, count = replay.anatomy, targets.shape[1]
    if len(anatomy.layers) < 2:
        raise VlmHeadsError("a decoder of one layer", "two or more")
    states: list[Tensor] = []
    with ExitStack() as stack:
        for layer in anatomy.layers:

            def keep(_: Any, __: Any, output: Any) -> None:
                found = anatomy.flat_states(output)[:, -count - 1 : -1]
                states.append(found[chosen.to(found.device)])

            stack.callback(layer.register_forward_hook(keep).remove)
        replay.run()
    tokens = targets[chosen].to(states[-1].device)
    logs = [_log(anatomy.unembed(anatomy.normed(state), norm=False), tokens) for state in states]
    one, last = states[-2].to(states[-1]), states[-1]
    undone = [
        _log(anatomy.unembed(anatomy.normed((1 - a) * last + a * one), norm=False), tokens)
        for a in SHARES
    ]
    kinds = torch.full(shape, KINDS.index("other")).masked_fill(right, 0).masked_fill(wrong, 1)
    return Overconfidence(torch.stack(logs, dim=1), torch.stack(undone, dim=1), kinds[chosen])


def _log(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability [W] of each token, by logits [W, V]."""
    found = at_least_float32(logits).log_softmax(dim=-1)
    return found.gather(-1, tokens[:, None].to(found.device))[:, 0].cpu().float()
