"""VTI, its textual half: steer every MLP along directions that were measured beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.learned import Learned
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request

# The release's fixed factor beside its strength.
_SCALE = 0.1
# What a length is at least before something is divided by it.
_TINY = 1e-12


@torch.no_grad()
def measure_directions(
    model: Any,
    pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    provenance: Mapping[str, Any] | None = None,
) -> Learned:
    """Measure the directions from hallucinated to truthful captions of the same images.

    For each pair the difference of the hidden states at the last token is taken in all layers at
    once; the direction is the mean difference plus the first principal component, signed so that
    the pair that it weighs most has a positive weight. As in the release, the state of the last
    layer is the one after the last norm.

    Args:
        model: a transformers model for image-text-to-text generation.
        pairs: arguments of the model's forward for one prompt with the truthful and one with the
            hallucinated caption after it, such as a processor makes; not padded on the right.
        provenance: what is to be remembered with the directions.

    Returns:
        The directions [L, E], one per layer; only where they point to counts.

    Raises:
        VlmHeadsError: fewer than two pairs, which have no principal component.
    """
    geometry = examine(model).geometry
    differences = []
    for truthful, hallucinated in pairs:
        one, two = (
            torch.cat([state[:, -1] for state in _states(model, inputs)])
            for inputs in (truthful, hallucinated)
        )
        differences.append((at_least_float32(one) - at_least_float32(two)).cpu())
    if len(differences) < 2:
        raise VlmHeadsError(f"{len(differences)} pairs of captions", "two or more")
    data = torch.stack(differences)
    mean = data.mean(dim=0)
    weights, _, components = torch.linalg.svd((data - mean).flatten(1), full_matrices=False)
    sign = weights[weights[:, 0].abs().argmax(), 0].sign()
    direction = mean + sign * components[0].view_as(mean)
    about = {"pairs": len(differences)} | dict(provenance or {})
    return Learned("vti", {"directions": direction}, geometry, about)


def _states(model: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return the output of each layer [1, S, E], without that of the embeddings."""
    output = model(**inputs, output_hidden_states=True, use_cache=False, return_dict=True)
    states: tuple[Tensor, ...] = output.hidden_states[1:]
    return states


@dataclass(frozen=True)
class VTI(Plugin):
    """Visual and textual intervention, the textual half.

    The output x of each MLP is turned towards the layer's direction v and keeps its length:
    u = x / ‖x‖ + 0.1 · strength · v / ‖v‖, x' = ‖x‖ u / ‖u‖, at all positions.

    Source: Liu et al., ICLR 2025, arXiv 2410.15778, and shengliu66/VTI (strength 0.9). Directions
    come from pairs of a truthful and a hallucinated caption of some 70 images;
    `measure_directions` computes them from pairs that you bring, none are shipped. Deviations: the
    visual half, which steers the vision encoder along directions of its own, is left out, since
    the encoder has run before a plugin acts.

    Cost: an addition a layer and token.

    Evidence: no CHAIR table is known to us; the README announces one.
    """

    name: ClassVar[str] = "vti"
    paper: ClassVar[str] = "Liu et al., ICLR 2025, arXiv 2410.15778 (textual half)"
    cost: ClassVar[str] = "no extra pass"
    search: ClassVar = ({"strength": 0.45}, {"strength": 0.9}, {"strength": 1.8})

    directions: Learned | str | None = option(
        None,
        "directions that were measured on this model, or their file",
        kind="learned",
        method="vti",
        tensors={"directions": "LE"},
    )
    strength: float = option(0.9, "how far to turn; 0 is none", low=0.0, high=100.0)

    @classmethod
    def neutral(cls) -> Self:
        """Return no intervention."""
        return cls(strength=0.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse missing directions."""
        if self.directions is None and self.strength:
            raise VlmHeadsError(
                f"{self.name} without directions",
                "directions, or the path of saved ones",
                "measure them with vlmheads_plugins.vti.measure_directions",
            )

    def on_prompt(self, request: Request) -> None:
        """Turn the directions into steps, and refuse those of another width."""
        if not self.strength or not isinstance(self.directions, Learned):
            return
        model: Any = request.anatomy.model
        directions = self.directions.values["directions"]
        width, found = model.get_input_embeddings().embedding_dim, directions.shape[1]
        if width != found or None in request.anatomy.mlps:
            raise VlmHeadsError(
                f"{self.name}: directions of width {found}",
                f"width {width}, and an MLP in each layer of {request.geometry.model_type}",
                "measure them on this model",
            )
        steps = F.normalize(directions, dim=-1) * (_SCALE * self.strength)
        request.scratch(self)["steps"] = steps.to(request.has_image.device)

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Turn the output of an MLP."""
        if not self.strength or site != "mlp":
            return hidden
        output = at_least_float32(hidden)
        step: Tensor = request.scratch(self)["steps"][layer].to(hidden.device)
        length = torch.linalg.vector_norm(output, dim=-1, keepdim=True)
        # u times the length of x, which falls out when u is brought to that length.
        moved: Tensor = output + length * step
        moved = moved * (
            length / torch.linalg.vector_norm(moved, dim=-1, keepdim=True).clamp(_TINY)
        )
        if request.all_see:
            return moved.to(hidden.dtype)
        has_image = request.has_image.to(hidden.device)[:, None, None]
        return torch.where(has_image, moved.to(hidden.dtype), hidden)
