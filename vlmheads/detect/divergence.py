"""Vision-aware head divergence: how much each head's output changes with the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vlmheads.detect.replay import after_end, layered, refuse_beams
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.plugin import Plugin
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attachment import attach
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import TEXT_ONLY, Stream

# Which filter of heads that are loud without an image: VHR's paper's, or its released code's.
Form = Literal["paper", "release"]


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
    values = layered(probe.found, geometry)
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
    ended = after_end(tokens, attachment.anatomy.generator.generation_config.eos_token_id)
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


def filter_negative_heads(current: Tensor, reference: Tensor, form: Form = "paper") -> Tensor:
    """Divergence of each head, set to zero for the outliers of Eq. 6 of the VHR paper.

    A head is an outlier where both its divergence VHD and its text-only activation
    TA = ‖reference‖² lie more than one standard deviation above the mean of the layer's heads.

    Source: He et al., "Cracking the Code of Hallucination in LVLMs with Vision-aware Head
    Divergence", ACL 2025, arXiv 2412.13949, Eq. 4 and 6. The paper does not say which standard
    deviation; both forms take the unbiased one. The released code, as known from a port of it,
    differs from the paper in two ways, which `form="release"` follows: VHD enters squared, and a
    layer is only filtered if the standard deviation of that is above 1.

    Args:
        current: head outputs with the image [..., H, D].
        reference: head outputs without it [..., H, D].
        form: "paper" or "release".

    Returns:
        Euclidean distances [..., H], float32 or more, outliers 0.
    """
    distance = head_divergence(current, reference)
    activation = at_least_float32(reference).square().sum(dim=-1)
    compared = distance.square() if form == "release" else distance
    outlier = _is_high(compared) & _is_high(activation)
    if form == "release":
        outlier &= compared.std(dim=-1, keepdim=True) > 1
    return distance.masked_fill(outlier, 0)


def head_divergence(current: Tensor, reference: Tensor) -> Tensor:
    """Vision-aware head divergence ‖current - reference‖₂ over the last dimension (Eq. 4).

    Args:
        current: head outputs with the image [..., H, D].
        reference: head outputs without it, of the same shape.

    Returns:
        [..., H], float32 or more.
    """
    difference = at_least_float32(current) - at_least_float32(reference)
    norm: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return norm


def _is_high(values: Tensor) -> Tensor:
    """Where a head lies more than one standard deviation above the mean of its layer."""
    limit = values.mean(dim=-1, keepdim=True) + values.std(dim=-1, keepdim=True)
    return values > limit
