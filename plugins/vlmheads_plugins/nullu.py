"""Nullu: take out of every MLP what tells hallucinated captions from truthful ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.gains.folds import Fold
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request

# How far a basis may be from orthonormal.
_SLACK = 1e-3


@dataclass(frozen=True)
class Nullu(Plugin):
    """Remove from the MLP's outputs the directions in which hallucinations stand out.

        x ← x − V Vᵀ x

    for the output x of the MLP of a layer, at all positions, where the k columns of V are the
    layer's largest directions from hallucinated to truthful captions. It is what the release does
    to the weights, W_down ← (I − V Vᵀ) W_down, without touching them.

    Needs: V comes of D = (truthful − hallucinated) / 2 [N, E], the layer's outputs averaged over
    prompt, image and caption, for N pairs of captions of an image: the right singular vectors of D,
    not centred. `vlmheads learn nullu` makes the pairs of the model's own captions and keeps the
    largest eight.

    Source: null space projection, CVPR 2025, arXiv 2412.13817, and Ziwei-Zheng/Nullu: k = 4 of 8 by
    default, layers 16 to 31 of 32, pairs of LURE. LTS-FS (CVPR 2026, arXiv 2603.16284,
    huttersadan/LTS-FS) keeps the method and names the layers: 14 and 16 to 31 but 23 of
    LLaVA-1.5-7B; pass them as `layers`. The strengths for each layer in its paper are not in its
    code, nor here.

    Deviations: prompts without an image are left alone, which changed weights do not do; the pairs
    are ours.

    Cost: two products of a state with a matrix [E, k] per layer and token; none once written into
    the weights.

    Evidence: the authors score captions of 64 tokens with beams, which compares with nothing else
    here. LTS-FS's authors have 50.2/13.7 for Nullu and 46.8/13.5 with their layers, 53.0/13.9
    plain; MPD's authors 20.4/7.1 to 15.2/5.3 at 64 tokens. No recall in these. On the embedded
    model it is worse than plain on ordinary scenes, object F1 at equal recall -1.4 points [-2.3,
    -0.7], and not distinguishable on counterfactual ones (docs/effect.md).
    """

    name: ClassVar[str] = "nullu"
    paper: ClassVar[str] = "CVPR 2025, arXiv 2412.13817"
    cost: ClassVar[str] = "no extra pass"
    search: ClassVar = ({"rank": 1}, {"rank": 2}, {"rank": 4}, {"rank": 8})

    basis: Learned | str | None = option(
        None,
        "what `vlmheads learn nullu` learned from this model, or its file",
        kind="learned",
        method="nullu",
        needed_by=("rank",),
        tensors={"basis": "LEk"},
    )
    rank: int = option(4, "k, how many directions to remove; 0 is none", low=0, high=1000)
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default 16 to 31 of 32, scaled to the depth", kind="layers"
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return no directions."""
        return cls(rank=0)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on."""
        if self.layers is not None:
            return self.layers
        return geometry.scaled(16, 32, attention=False)

    def directions(self) -> Tensor:
        """Return V of every layer, [L, E, k]."""
        assert isinstance(self.basis, Learned)
        return self.basis.values["basis"][..., : self.rank]

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a basis of fewer directions, and one that is not orthonormal."""
        if not self.rank:
            return
        assert isinstance(self.basis, Learned)
        held = self.basis.values["basis"].shape[-1]
        if held < self.rank:
            raise VlmHeadsError(
                f"{self.name}: rank={self.rank} with a basis of {held} directions",
                f"a rank from 0 to {held}",
            )
        found = self.directions()
        off = found.transpose(1, 2) @ found - torch.eye(self.rank)
        if not bool(off.abs().max() <= _SLACK):
            raise VlmHeadsError(
                f"{self.name}: a basis whose columns are not of length 1 at right angles",
                "an orthonormal one, as it was learned",
            )

    def fold(self, geometry: Geometry) -> Fold | None:
        """Return the directions that the MLPs lose."""
        if not self.rank:
            return Fold()
        directions, layers = self.directions(), self.chosen_layers(geometry)
        return Fold(removed={layer: directions[layer] for layer in layers})

    def on_prompt(self, request: Request) -> None:
        """Lay the basis out on the device, and refuse one of another width."""
        if not self.rank:
            return
        model: Any = request.anatomy.model
        found = self.directions()
        width, held = model.get_input_embeddings().embedding_dim, found.shape[1]
        layers = self.chosen_layers(request.geometry)
        if width != held or any(request.anatomy.mlps[layer] is None for layer in layers):
            raise VlmHeadsError(
                f"{self.name}: a basis of width {held}",
                f"width {width}, and an MLP in each chosen layer of {request.geometry.model_type}",
                "learn it from this model",
            )
        request.scratch(self)["basis"] = found.to(request.has_image.device)

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Take the directions out of the output of an MLP."""
        acts = self.rank and site == "mlp" and layer in self.chosen_layers(request.geometry)
        if not acts:
            return hidden
        output = at_least_float32(hidden)
        basis: Tensor = request.scratch(self)["basis"][layer].to(output)
        left = (output - (output @ basis) @ basis.T).to(hidden.dtype)
        if request.all_see:
            return left
        return torch.where(request.has_image.to(hidden.device)[:, None, None], left, hidden)
