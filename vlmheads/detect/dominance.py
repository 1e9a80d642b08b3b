"""Text dominance: how much more a generated token attends to text than to the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.replay import after_end, layered, refuse_beams, require_images
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.plugin import Plugin
from vlmheads.runtime.attachment import attach
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request

THIRDS = ("early", "middle", "late")


@dataclass(frozen=True, eq=False)
class Dominance:
    """What `text_dominance` measured.

    Args:
        text: "text-attention", mean attention of the output tokens on the text of the prompt.
        image: "image-attention", mean attention of the output tokens on its image tokens; the
            image attention ratio of each head.
        counts: [N, 2] text and image tokens of each prompt.
        sequences: what model.generate returned, prompt included.
    """

    text: HeadMap
    image: HeadMap
    counts: Tensor
    sequences: Tensor

    def mdi(self) -> Tensor:
        """MDI = (A_T / |T|) / (A_O / |O|) of each third of the layers with heads, [N, 3].

        Over 1, text wins.
        """
        text, image = self._thirds()
        size = self.counts.double()
        return (text / size[:, :1]) / (image / size[:, 1:])

    def aei(self) -> Tensor:
        """AEI_T = P_T / Q_T of each third of the layers [N, 3].

        P_T = A_T / (A_T + A_O) is the share of the attention that goes to text, and
        Q_T = |T| / (|T| + |O|) the share of the tokens that are text.
        """
        text, image = self._thirds()
        size = self.counts.double()
        return text / (text + image) * size.sum(dim=1, keepdim=True) / size[:, :1]

    def _thirds(self) -> tuple[Tensor, Tensor]:
        """Attention on text and on the image, [N, 3] each, mean of the heads of each third."""
        with_heads = list(self.text.geometry.attention_layers)
        layers = len(with_heads)
        edges = [round(layers * part / 3) for part in range(4)]
        # Of one or two layers, a third is the layer that it begins in.
        spans = [slice(min(a, layers - 1), max(b, a + 1)) for a, b in pairwise(edges)]
        text, image = (
            torch.stack([part[:, span].double().mean(dim=(1, 2)) for span in spans], dim=1)
            for part in (self.text.values[:, with_heads], self.image.values[:, with_heads])
        )
        return text, image


@torch.no_grad()
def text_dominance(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    provenance: Mapping[str, Any] | None = None,
    **generate: Any,
) -> Dominance:
    """Generate, and measure how the attention of the output tokens divides into text and image.

    A_T and A_O are the attention on the prompt's text, system prompt and template included, and on
    its image tokens, in the row that predicts an output token, averaged over output tokens and
    heads. MDI and AEI follow from them for the first, second and last third of the layers.

    Source: "When Language Overrules", arXiv 2508.10552, known from a reimplementation. Deviations:
    the row of an output token is the one that predicts it, which there is for the first one too;
    attention on tokens generated before counts on neither side; attention is averaged over the
    layers of a third before the ratio is taken.

    Memory: one row of attention of a layer at a time.

    Args:
        model: a transformers model for image-text-to-text generation; plugins that are attached
            to it act.
        inputs: what a processor made of images and text, for a batch of N prompts, each with an
            image.
        provenance: plain values to keep with the maps, such as the model id and the prompt.
        generate: further arguments of model.generate, such as max_new_tokens.

    Raises:
        VlmHeadsError: a prompt without an image or without text, beams, or several tokens per step.
    """
    refuse_beams(generate)
    probe = _Probe()
    with attach(model, probe) as attachment:
        anatomy = attachment.anatomy
        require_images(anatomy, inputs)
        output = attachment.model.generate(**inputs, num_beams=1, **generate)
    sequences = output if isinstance(output, Tensor) else output.sequences
    counts = probe.counts[0]
    if not bool(counts.all()):
        raise VlmHeadsError(
            f"prompts of {counts.tolist()} text and image tokens", "at least one of each"
        )
    tokens = sequences[:, -len(probe.steps) :]
    said = (~after_end(tokens, attachment.anatomy.generator.generation_config.eos_token_id)).float()
    about = dict(provenance or {}) | {"tokens": said.sum(dim=1).tolist()}
    found = []
    for index, measure in enumerate(("text-attention", "image-attention")):
        # [T, N, L, H]; padding after the end of a row counts for nothing.
        steps = [
            layered(((layer, part[index]) for layer, part in step.items()), anatomy.geometry)
            for step in probe.steps
        ]
        mean = torch.einsum("tnlh,nt->nlh", torch.stack(steps), said / said.sum(1, keepdim=True))
        found.append(HeadMap(mean, anatomy.geometry, measure, about))
    return Dominance(found[0], found[1], counts, sequences)


@dataclass(frozen=True)
class _Probe(Plugin):
    """Sum the last row's attention on the prompt's text and image, in every layer and step."""

    name: ClassVar[str] = "text-dominance"

    steps: list[dict[int, Tensor]] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)

    @property
    def whole_map(self) -> bool:
        return True  # the last row is wanted, also of a prompt that ends in its image

    def on_prompt(self, request: Request) -> None:
        prompt = request.prompt
        text = prompt.mask & ~prompt.visual
        request.scratch(self)["text"] = text
        self.counts.append(torch.stack([text.sum(dim=1), prompt.visual.sum(dim=1)], dim=1).cpu())

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        if len(self.steps) == request.step:
            self.steps.append({})
        last = rows.editable.shape[1] - 1
        weights = rows.part(slice(last, last + 1))[:, :, 0]
        text = request.prompt_keys(request.scratch(self)["text"], weights.shape[-1])
        marks = torch.stack([text, rows.image_keys], dim=-1).to(weights.dtype)
        self.steps[request.step][layer] = (weights @ marks).permute(2, 0, 1).cpu()
        return rows
