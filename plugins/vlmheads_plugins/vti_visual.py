"""VTI, its visual half: steer every MLP of the vision tower along directions of its positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.learned import Learned
from vlmheads.model.tower import plain_blocks
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request

# The release's fixed factor beside its strength.
_SCALE = 0.1
# What a length is at least before something is divided by it.
_TINY = 1e-12


@dataclass(frozen=True)
class VTIVisual(Plugin):
    """Turn the MLP's outputs in the vision tower towards their mean over blotted pictures.

    In each block of the vision tower the output x of the MLP at a position is turned towards the
    direction v of that block and position, and keeps its length:

        u = x / ‖x‖ + 0.1 · strength · v / ‖v‖,  x' = ‖x‖ u / ‖u‖

    Source: visual and textual intervention, the visual half, Liu et al., ICLR 2025, arXiv
    2410.15778, and shengliu66/VTI (strength 0.9 for MMHal in its script, 0 by default).

    Needs: `vlmheads learn vti-visual` learns the directions from images as the release does: from a
    picture to the mean of 50 copies with 99 % of its patches blotted out, of 70 pictures; see
    `vlmheads.detect.visual_directions`, which mixes layers and positions as the release's code
    does.

    Pitfalls: the directions belong to a number of positions, so that towers of another number, or
    of a number that depends on the image, are refused; likewise blocks of other parts than CLIP's
    and SigLIP's.

    Deviations: x' stands in for x in the sum that the block gives, which is the same but for
    rounding. The textual half is the plugin `vti`; attach both for the whole.

    Cost: a second run of the vision tower for each prompt, and transformers 5.18 or later, whose
    forward takes encoded images.

    Evidence: no CHAIR table of the authors is known to us. LTS-FS's authors have, with both halves
    at strength 0.4, 53.0/13.9 at recall 77.2 to 47.4/13.9 at 76.2. Nobody else's run of this half
    alone known to us. On the embedded model it is worse on both kinds of scenes, object F1 at equal
    recall -1.4 points [-2.1, -0.8] and -5.4 [-7.1, -3.3]; at strength 0.4 it is not distinguishable
    from plain (docs/effect.md).
    """

    name: ClassVar[str] = "vti-visual"
    paper: ClassVar[str] = "Liu et al., ICLR 2025, arXiv 2410.15778 (visual half)"
    cost: ClassVar[str] = "a second run of the vision tower"
    search: ClassVar = ({"strength": 0.4}, {"strength": 0.9}, {"strength": 1.8})

    directions: Learned | str | None = option(
        None,
        "what `vlmheads learn vti-visual` learned from this model, or its file",
        kind="learned",
        method="vti-visual",
        needed_by=("strength",),
        tensors={"directions": "BPE"},
    )
    strength: float = option(0.9, "how far to turn; 0 is none", low=0.0, high=100.0)

    @classmethod
    def neutral(cls) -> Self:
        """Return no intervention."""
        return cls(strength=0.0)

    def on_prompt(self, request: Request) -> None:
        """Refuse a tower of other blocks, and lay the steps out."""
        if not self.strength or not isinstance(self.directions, Learned):
            return
        directions = self.directions.values["directions"]
        blocks = len(plain_blocks(request.anatomy))
        if blocks != len(directions):
            raise VlmHeadsError(
                f"{self.name}: directions of {len(directions)} vision blocks", f"{blocks}"
            )
        steps = F.normalize(directions, dim=-1) * (_SCALE * self.strength)
        request.scratch(self)["steps"] = steps

    def on_vision(self, request: Request, block: int, hidden: Tensor) -> Tensor:
        """Turn the output of a block's MLP."""
        if not self.strength:
            return hidden
        step: Tensor = request.scratch(self)["steps"][block].to(hidden.device)
        mlp = request.vision_mlp
        if mlp is None or mlp.shape[1:] != step.shape:
            raise VlmHeadsError(
                f"{self.name}: directions of {step.shape[0]} positions of width {step.shape[1]} "
                f"for vision states {list(hidden.shape[1:])}",
                "the same, with an MLP in each block",
                "learn them on this model",
            )
        output = at_least_float32(mlp)
        length = torch.linalg.vector_norm(output, dim=-1, keepdim=True)
        turned = F.normalize(output / length.clamp(min=_TINY) + step, dim=-1, eps=_TINY)
        moved: Tensor = at_least_float32(hidden) + (length * turned - output)
        return moved.to(hidden.dtype)
