"""VTI, its textual half: steer every MLP along directions that were measured beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.detect.directions import measure_directions as measure_directions
from vlmheads.errors import VlmHeadsError
from vlmheads.learned import Learned
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request

# The release's fixed factor beside its strength.
_SCALE = 0.1
# What a length is at least before something is divided by it.
_TINY = 1e-12


@dataclass(frozen=True)
class VTI(Plugin):
    """Turn the MLP's outputs towards what sets truthful captions apart.

    The output x of each MLP is turned towards the layer's direction v and keeps its length:

        u = x / ‖x‖ + 0.1 · strength · v / ‖v‖,  x' = ‖x‖ u / ‖u‖

    at all positions.

    Source: visual and textual intervention, the textual half, Liu et al., ICLR 2025, arXiv
    2410.15778, and shengliu66/VTI (strength 0.9).

    Needs: directions from pairs of a truthful and a hallucinated caption of some 70 images:
    `vlmheads learn vti` makes pairs of the model's own captions, truthful and with one object
    swapped; `measure_directions` takes pairs that you bring; none are shipped. The sign of their
    principal component, which has none of its own, is that of the mean.

    Pitfalls: all layers are turned; LTS-FS (CVPR 2026, arXiv 2603.16284, huttersadan/LTS-FS) turns
    only layers 14 and 16 to 31 of LLaVA-1.5-7B but 23, at strength 0.4: `layers` takes that list.
    The visual half, which steers the vision encoder along directions of its own, is the plugin
    `vti-visual`.

    Deviations: none but that sign.

    Cost: an addition per layer and token.

    Evidence: no CHAIR table of the authors is known to us; the README announces one. LTS-FS's
    authors have, with both halves, 53.0/13.9 at recall 77.2 to 47.4/13.9 at 76.2 for VTI and to
    35.8/11.9 at 75.4 with their layers, captions 16 words shorter. On the embedded model, with
    directions of its own, it is better on both kinds of scenes (docs/effect.md).
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
        needed_by=("strength",),
        tensors={"directions": "LE"},
    )
    strength: float = option(0.9, "how far to turn; 0 is none", low=0.0, high=100.0)
    layers: tuple[int, ...] | None = option(
        None, "layers whose MLP is turned; by default all", kind="layers"
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return no intervention."""
        return cls(strength=0.0)

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
        chosen = self.layers is None or layer in self.layers
        if not self.strength or site != "mlp" or not chosen:
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
