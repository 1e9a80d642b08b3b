"""Sink tokens: those whose hidden state is massive in a few dimensions, and visual ones among them.

A visual sink is an image token that draws attention because of its norm, not of what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.replay import layered, prefill
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.plugin import Plugin
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


@dataclass(frozen=True)
class Known:
    """The sink dimensions of one text decoder, and who found them how."""

    decoder: str
    dimensions: tuple[int, ...]
    source: str


_KANG = "Kang et al., ICLR 2025, arXiv 2503.03321"
# By the text decoder: model type, width, layers, key heads.
SINK_DIMENSIONS: dict[tuple[str, int, int, int], Known] = {
    ("llama", 4096, 32, 32): Known("LLaMA-2-7B", (1415, 2533), _KANG),
    ("llama", 5120, 40, 40): Known("LLaMA-2-13B", (2100, 4743), _KANG),
    ("qwen2_vl_text", 3584, 28, 4): Known("Qwen2-VL-7B", (458, 2570), _KANG),
    ("llama", 576, 30, 3): Known(
        "SmolLM2-135M",
        (17, 507),
        "measured on the test bench smol (testbed/README.md): 507 is massive at the first token "
        "from layer 2 on, 17 at image tokens that enter the last two layers",
    ),
}


def known_dimensions(config: Any) -> tuple[int, ...] | None:
    """Return the sink dimensions on record for a text decoder, by its config."""
    names = ("model_type", "hidden_size", "num_hidden_layers", "num_key_value_heads")
    found = SINK_DIMENSIONS.get(tuple(getattr(config, name, None) for name in names))  # type: ignore[arg-type]
    return None if found is None else found.dimensions


def massive_dimensions(
    hidden: Tensor, mask: Tensor, tau: float = 20.0, *, strict: bool = False
) -> Tensor:
    """Mark the dimensions [B, E] in which the first token of a prompt reaches |x[d]| / RMS(x) = τ.

    Args:
        hidden: states [B, S, E] that enter a layer.
        mask: [B, S] True where a token is real.
        tau: the least value; it cannot exceed √E.
        strict: whether τ itself is too little.
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    first = at_least_float32(hidden[rows, mask.int().argmax(dim=1)])
    relative = first.abs() / _scale(first)[:, None]
    return relative > tau if strict else relative >= tau


def sink_strength(hidden: Tensor, dimensions: Sequence[int] | Tensor) -> Tensor:
    """φ(x) = max over the sink dimensions of |x[d]| / RMS(x) of each token [B, S].

    Source: Kang et al., ICLR 2025, arXiv 2503.03321; without their ε.

    Args:
        hidden: states [B, S, E].
        dimensions: the sink dimensions, or a mark of those of each row [B, E]. A row without any
            has φ = 0.
    """
    if isinstance(dimensions, Tensor):
        # Only the few dimensions that are massive in some row are looked at everywhere.
        some = dimensions.any(dim=0).nonzero()[:, 0]
        if not len(some):
            wide = torch.promote_types(hidden.dtype, torch.float32)
            return hidden.new_zeros(hidden.shape[:2], dtype=wide)
        found = at_least_float32(hidden[:, :, some]).abs() * dimensions[:, None, some]
    else:
        found = at_least_float32(hidden[:, :, list(dimensions)]).abs()
    return found.amax(dim=-1) / _scale(hidden)


def _scale(hidden: Tensor) -> Tensor:
    """Root mean square of the states, at least the least number."""
    values = at_least_float32(hidden)
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1) / values.shape[-1] ** 0.5
    return norm.clamp(min=torch.finfo(values.dtype).tiny)


@dataclass(frozen=True, eq=False)
class VisualSinks:
    """What `visual_sinks` measured.

    Args:
        phi: [N, L, S] φ of each token as it enters a layer; 0 on padding.
        visual: [N, S] True on image tokens.
        tau: a token is a sink of a layer where φ ≥ τ.
        massive: [L, E] share of the images in which a dimension is massive, |x[d]| / RMS(x) ≥ τ
            at the first token.
        on_record: the sink dimensions on record for this decoder, the authors' or our own (see
            `SINK_DIMENSIONS`, which names the source); None where there are none.
        image: "image-attention", mean attention of the text rows after the image on all of it.
        spent: "sink-share", share of that attention that is spent on its sinks.
        centric: "image-centric", share of the rows in which a head is image-centric.
    """

    phi: Tensor
    visual: Tensor
    tau: float
    massive: Tensor
    on_record: tuple[int, ...] | None
    image: HeadMap
    spent: HeadMap
    centric: HeadMap

    @property
    def sinks(self) -> Tensor:
        """[N, L, S] True where a token is a sink of a layer."""
        return (self.phi >= self.tau) & (self.phi > 0)

    @property
    def visual_sinks(self) -> Tensor:
        """[N, L, S] True where an image token is a sink of a layer."""
        return self.sinks & self.visual[:, None]

    def dimensions(self, share: float = 0.5) -> tuple[int, ...]:
        """Return the dimensions that are massive in some layer in at least a share of images."""
        found = (self.massive >= share) & (self.massive > 0)
        return tuple(found.any(dim=0).nonzero()[:, 0].tolist())

    @property
    def agrees(self) -> bool | None:
        """Whether every dimension on record is massive at the first token; None without record."""
        if self.on_record is None:
            return None
        return set(self.on_record) <= set(self.dimensions())


@torch.no_grad()
def visual_sinks(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    tau: float = 20.0,
    dimensions: Sequence[int] | None = None,
    rho: float = 0.5,
    minimum: float = 0.2,
    provenance: Mapping[str, Any] | None = None,
) -> VisualSinks:
    """Find sink tokens in every layer, and what each head's attention on the image goes to.

    φ(x) = max over the sink dimensions of |x[d]| / RMS(x) of the state x that enters a layer; a
    token is a sink where φ ≥ τ. In text rows after the image, or the last row of a prompt that ends
    in its image, r = (attention on image tokens that are no sinks) / (attention on image tokens);
    a head is image-centric in a row where r ≥ ρ, with at least `minimum` of its attention on the
    image. `spent` is 1 - r with numerator
    and denominator summed over the rows.

    Source: Kang et al., ICLR 2025, arXiv 2503.03321. Deviations: without `dimensions`, and of a
    decoder that has none on record, sink dimensions are found in each layer and prompt as those
    massive at its first token; `minimum` is the released code's. Layers are all measured,
    the first two included, which the method leaves out.

    Memory: a few rows of attention at a time.

    Args:
        model: a transformers model for image-text-to-text generation; plugins that are attached
            to it act.
        inputs: what a processor made of images and text, for a batch of N prompts.
        tau: the least φ of a sink.
        dimensions: sink dimensions in place of those on record or the found ones.
        rho: the least r of an image-centric head.
        minimum: the least attention on the image of an image-centric head.
        provenance: plain values to keep with the maps, such as the model id and the prompt.

    Raises:
        VlmHeadsError: dimensions that the states do not have, or no image in any prompt.
    """
    probe = _Probe(tau, None if dimensions is None else tuple(dimensions), rho, minimum)
    anatomy = prefill(model, inputs, probe)
    mask: Tensor = probe.kept["mask"]
    phi = torch.zeros(len(mask), anatomy.geometry.layers, mask.shape[1])
    massive = torch.zeros(anatomy.geometry.layers, probe.phi[0][2].shape[1])
    for layer, strength, found in probe.phi:
        phi[:, layer], massive[layer] = strength, found.float().mean(dim=0)
    about = dict(provenance or {}) | {"tau": tau, "rho": rho, "minimum": minimum}
    maps = [
        HeadMap(
            layered(((layer, part[index]) for layer, part in probe.attention), anatomy.geometry),
            anatomy.geometry,
            measure,
            about,
        )
        for index, measure in enumerate(("image-attention", "sink-share", "image-centric"))
    ]
    on_record = known_dimensions(anatomy.decoder.config)
    return VisualSinks(phi, probe.kept["visual"], tau, massive, on_record, *maps)


@dataclass(frozen=True)
class _Probe(Plugin):
    """Find the sinks of each layer, then read its attention on them."""

    name: ClassVar[str] = "visual-sinks"

    tau: float = 20.0
    given: tuple[int, ...] | None = None
    rho: float = 0.5
    minimum: float = 0.2
    # (layer, φ [N, S], massive dimensions [N, E]) and (layer, the three figures [3, N, H]).
    phi: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    attention: list[tuple[int, Tensor]] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def on_prompt(self, request: Request) -> None:
        width: int = request.anatomy.decoder.config.hidden_size  # type: ignore[union-attr, assignment]
        if self.given is not None and not all(0 <= d < width for d in self.given):
            raise VlmHeadsError(
                f"sink dimensions {list(self.given)}",
                f"dimensions from 0 to {width - 1}",
                "choose dimensions that this model has",
            )
        prompt = request.prompt
        self.kept.update(mask=prompt.mask.cpu(), visual=prompt.visual.cpu())

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        # The state that enters the layer is known when the layer is done.
        request.scratch(self)["rows"] = rows
        return rows

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        if site != "residual":
            return hidden
        mask, entering = request.prompt.mask, request.entering
        massive = massive_dimensions(entering, mask, self.tau)
        known = self.given or known_dimensions(request.anatomy.decoder.config)
        strength = sink_strength(entering, massive if known is None else known) * mask
        self.phi.append((layer, strength.cpu(), massive.cpu()))
        rows: Rows | None = request.scratch(self).pop("rows", None)
        if rows is not None:
            sinks = (strength >= self.tau) & (strength > 0)
            self.attention.append((layer, self._read(request, rows, sinks).cpu()))
        return hidden

    def _read(self, request: Request, rows: Rows, sinks: Tensor) -> Tensor:
        """Attention on the image, share on its sinks and share of centric rows, [3, B, H]."""
        marks = torch.stack([rows.image_keys, rows.image_keys], dim=-1).float()
        marks[..., 1] *= request.prompt_keys(sinks, marks.shape[1])
        image = spent = centric = torch.zeros((), device=marks.device)
        for _, weights in rows.stream():
            on_image, on_sinks = (weights @ marks[:, None]).unbind(dim=-1)
            rest = on_image - on_sinks
            chosen = (rest >= self.rho * on_image) & (on_image >= self.minimum) & (on_image > 0)
            image = image + on_image.sum(dim=-1)
            spent = spent + on_sinks.sum(dim=-1)
            centric = centric + chosen.sum(dim=-1)
        count = rows.editable.sum(dim=1)[:, None].clamp(min=1)
        share = spent / torch.where(image > 0, image, 1)
        return torch.stack([image / count, share, centric / count])
