"""What the image gives each word of an answer: head divergence, attention and probability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlmheads.detect.replay import after_end
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.candidates import Candidates
from vlmheads.grounding.catalogue import checked_answers, chosen_scores, scored_tokens
from vlmheads.grounding.divergence import token_divergence
from vlmheads.grounding.passes import run_passes
from vlmheads.grounding.readings import Needs, TokenScore, all_needs
from vlmheads.notebook import grounding_html


@dataclass(frozen=True, eq=False)
class Grounding:
    """What `grounding` measured at the positions that predict the tokens of an answer.

    Everything is float32 on the CPU, and 0 after a row's first end token and where a prompt has no
    image; the log-probabilities of such a prompt are its own in both streams.

    Args:
        divergence: [N, T, L, H] VHD, what the image changes in the output of each head.
        attention: [N, T, L, H] share of the attention row that is on image tokens.
        log_probability: [N, T] of the token, with the image.
        log_probability_without: [N, T] of the token, with the image deleted.
        patches: [N, T, L, H, P] attention weights on the P image tokens, where asked for.
        scores: name -> [N, T] further scores, where asked for; NaN where there is none.
        candidates: the likeliest tokens with the image, and with it deleted, where asked for; what
            stands after a row's end means nothing.
    """

    divergence: Tensor
    attention: Tensor
    log_probability: Tensor
    log_probability_without: Tensor
    patches: Tensor | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    candidates: tuple[Candidates, Candidates] | None = None

    def _repr_html_(self) -> str:
        return grounding_html(self)

    def token_divergence(self, k: int) -> Tensor:
        """T-VHD of each token [N, T]: the k largest VHD of every layer, summed over the layers.

        Source: He et al., ACL 2025, arXiv 2412.13949, Eq. 5; the paper leaves k open.

        Raises:
            VlmHeadsError: k that the layers do not have.
        """
        return token_divergence(self.divergence, k)


@torch.no_grad()
def grounding(
    model: Any,
    inputs: Mapping[str, Any],
    targets: Tensor,
    *,
    patches: bool = False,
    scores: Iterable[str | TokenScore] = (),
    candidates: int = 0,
) -> Grounding:
    """Measure how far the image supports each token of a given answer.

    The answer is appended to the prompt and the plain model reads both twice, with the image
    and with its embeddings deleted; further scores take no further pass. What is measured at a
    token belongs to the position before it, which predicts it. Answers that were generated under
    plugins are measured on the plain model all the same.

    Memory: of each layer the head outputs at T positions, and a few rows of attention at a time;
    patches keep T rows of each head, lens scores the states of a few levels.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right with the end token.
        patches: keep the weights on every image token, too; each prompt then needs the same
            number of them, as one image a prompt gives in most families.
        scores: further scores of the tokens, as `token_scores` takes them.
        candidates: how many of the likeliest tokens to keep of each position.

    Raises:
        VlmHeadsError: a model that cannot be attached to or has plugins attached, targets of
            another shape or with image tokens in them, no image in any prompt, for patches,
            prompts with different numbers of image tokens, or what `token_scores` refuses.
    """
    chosen = chosen_scores(scores)
    anatomy, given, targets = checked_answers(model, inputs, targets)
    visual = anatomy.is_visual(given["input_ids"])
    _check_patches(visual, patches)
    geometry = anatomy.geometry
    needs = Needs(without=True, heads=True, attention=True) | all_needs(chosen, geometry)
    found = run_passes(anatomy, given, targets, needs, patches=patches, candidates=candidates)
    assert found.without is not None
    shape = (*targets.shape, geometry.layers, geometry.heads)
    ended = after_end(targets, anatomy.generator.generation_config.eos_token_id)

    def kept(values: Tensor) -> Tensor:
        return values.masked_fill(ended[(...,) + (None,) * (values.ndim - 2)], 0)

    weights = {at: part.patches for at, part in found.attention.items() if part.patches is not None}
    return Grounding(
        kept(_layered(found.divergence, shape)),
        kept(_layered({at: shares.image for at, shares in found.attention.items()}, shape)),
        kept(found.log_probability),
        kept(found.without),
        kept(_layered(weights, (*shape, int(visual[0].sum())))) if patches else None,
        scored_tokens(anatomy, given, targets, found, chosen),
        found.candidates,
    )


def _check_patches(visual: Tensor, patches: bool) -> None:
    """Refuse to lay out weights on image tokens where the prompts differ in their number."""
    counts = visual.sum(dim=1).tolist()
    if patches and len(set(counts)) > 1:
        raise VlmHeadsError(
            f"prompts of {counts} image tokens",
            "the same number in each, for patches=True",
            "measure them one by one",
        )


def _layered(found: Mapping[int, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Lay out what was found in each layer, [N, T, H, ...]; 0 where there is no head."""
    values = torch.zeros(shape)
    for layer, part in found.items():
        values[:, :, layer, : part.shape[2]] = part.float()
    return values
