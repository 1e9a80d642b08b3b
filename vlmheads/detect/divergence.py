"""Vision-aware head divergence: how much each head's output changes with the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.heads import Form, filter_negative_heads, head_divergence
from vlmheads.detect.replay import after_end, refuse_beams
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.plugin import Plugin
from vlmheads.runtime.attachment import attach
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import TEXT_ONLY, Stream


@torch.no_grad()
def divergence(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    filtered: bool | Form = False,
    provenance: Mapping[str, Any] | None = None,
) -> HeadMap:
    """Measure VHD of every layer and head at the last prompt position.

    VHD = ‖A(y | y_<t, image, text) - A(y | y_<t, text)‖₂ of the head outputs A, before the output
    projection; "without the image" means that its embeddings are deleted and the positions of the
    text move together. Source: He et al., ACL 2025, arXiv 2412.13949, Eq. 4 and, filtered, Eq. 6.

    Args:
        model: a transformers model for image-text-to-text generation; plugins that are attached
            to it act on the pass with the image.
        inputs: what a processor made of images and text, for a batch of N prompts.
        filtered: set negative heads to 0; True is "paper", "release" the released code's form.
        provenance: plain values to keep with the map, such as the model id and the prompt.

    Returns:
        A map of [N, layers, heads], float32. A prompt without an image gives zeros.

    Raises:
        VlmHeadsError: a model that cannot be attached to, or no image in any prompt.
    """
    probe = _Probe(form=None if filtered is False else "paper" if filtered is True else filtered)
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    with attach(model, probe) as attachment:
        geometry = attachment.anatomy.geometry
        attachment.model(**inputs, use_cache=False)
    if not probe.found:
        raise VlmHeadsError(
            "prompts without any image", "at least one image token", "pass what the processor made"
        )
    values = torch.zeros(len(probe.found[0][1]), geometry.layers, geometry.heads)
    for layer, found in probe.found:
        values[:, layer, : found.shape[1]] = found.cpu()
    about = dict(provenance or {}) | {"filtered": probe.form or False}
    return HeadMap(values, geometry, "vhd", about)


@dataclass(frozen=True)
class _Probe(Plugin):
    """Compare the head outputs at the last prompt position with those without images."""

    name: ClassVar[str] = "divergence"

    form: Form | None = None
    found: list[tuple[int, Tensor]] = field(default_factory=list)

    def on_prompt(self, request: Request) -> None:
        layers = range(request.geometry.layers)
        request.scratch(self)["reference"] = request.text_only_forward(heads=layers).heads

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        reference = request.scratch(self)["reference"].pop(layer)
        if self.form is None:
            found = head_divergence(heads[:, -1], reference)
        else:
            found = filter_negative_heads(heads[:, -1], reference, self.form)
        self.found.append((layer, found * request.has_image[:, None]))
        return heads


@dataclass(frozen=True, eq=False)
class Trace:
    """What `divergence_trace` measured.

    Args:
        sequences: [N, prompt + T] token ids, as generate() returned them.
        values: [N, T] T-VHD of each generated token, float32; 0 from the end of a row on.
        heads: [N, T, layers, heads] the VHD that it sums.
    """

    sequences: Tensor
    values: Tensor
    heads: Tensor


@torch.no_grad()
def divergence_trace(model: Any, inputs: Mapping[str, Any], *, k: int, **generate: Any) -> Trace:
    """Generate, and measure T-VHD of every generated token.

    T-VHD(y_t) = Σ over layers of the k largest VHD of the layer, at the position that predicts
    y_t. Source: He et al., ACL 2025, arXiv 2412.13949, Eq. 5; the paper leaves k open, so it has
    to be given. The stream without images has its own cache and runs in one batch with the main
    one: each token costs one forward pass over one new token of both.

    Args:
        model: a transformers model for image-text-to-text generation.
        inputs: what a processor made of images and text, for a batch of N prompts.
        k: heads of each layer that are summed.
        generate: further arguments of model.generate, such as max_new_tokens.

    Raises:
        VlmHeadsError: k that the model's layers do not have, beams (whose rows change places),
            several tokens per step, or no image in any prompt.
    """
    refuse_beams(generate)
    probe = _TraceProbe()
    with attach(model, probe) as attachment:
        geometry = attachment.anatomy.geometry
        if not 1 <= k <= geometry.heads:
            raise VlmHeadsError(f"k={k}", f"a number from 1 to {geometry.heads} heads of a layer")
        output = attachment.model.generate(**inputs, num_beams=1, **generate)
    if not probe.steps:
        raise VlmHeadsError(
            "prompts without any image", "at least one image token", "pass what the processor made"
        )
    sequences = output if isinstance(output, Tensor) else output.sequences
    heads = torch.stack([torch.stack(list(step.values()), dim=1) for step in probe.steps], dim=1)
    tokens = sequences[:, -heads.shape[1] :]
    ended = after_end(tokens, attachment.model.generation_config.eos_token_id)
    heads = heads.masked_fill(ended[:, :, None, None], 0)
    return Trace(sequences, heads.topk(k, dim=-1).values.sum(dim=(2, 3)), heads)


@dataclass(frozen=True)
class _TraceProbe(Plugin):
    """Compare the head outputs of every step with those of the stream without images."""

    name: ClassVar[str] = "divergence-trace"

    steps: list[dict[int, Tensor]] = field(default_factory=list)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (TEXT_ONLY,)

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        if len(self.steps) == request.step:
            self.steps.append({})
        other = request.stream_heads[TEXT_ONLY.name]
        found = head_divergence(heads[:, -1], other[:, -1]) * request.has_image[:, None]
        self.steps[request.step][layer] = found.cpu()
        return heads
