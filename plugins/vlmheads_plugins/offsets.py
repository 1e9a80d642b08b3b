"""Offsets: a learned vector, added to the output of each of a few heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.gains.folds import Fold
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.request import Request

_FOLDED = (
    "offsets are folded into every position, where the plugin leaves those of the prompt before "
    "its last one alone"
)


@dataclass(frozen=True)
class Offsets(Plugin):
    """Add a learned vector to the output of each chosen head.

        z_{l,h} ← z_{l,h} + strength · v_{l,h}

    before the output projection, in the `count` heads with the highest scores. v, the scores, the
    number of heads and the positions are learned.

    Source: by the form of `vlmheads learn offsets --form FORM`, which keeps v at the published
    strength:

    * iti (inference-time intervention, NeurIPS 2023, arXiv 2306.03341, likenneth/honest_llama):
      v = 15 σ d, with d the unit vector from the mean of hallucinated to that of truthful answers
      at their last token, and σ the standard deviation along it; the 48 heads of 1,024 whose
      logistic probe tells the two apart best, in two folds; the last position of each forward pass.
    * iti-probe: the same with d the weights of the probe, the release's other direction.
    * lofit (LoFiT, NeurIPS 2024, arXiv 2406.01563, fc2869/lo-fit): v is trained by gradient, in the
      3 % of the heads with the largest factors A of a first round, z ← (1 + A) z, which is then
      forgotten; all positions. See `vlmheads.gains.offsets.train_offsets`.
    * after (AFTER, ICLR 2026, wytbwytb/AFTER, second-hand): v = 7 d, with d the mean of z at the
      last token of a question after its facts in words and without the image, less that with the
      image; the 64 heads of 1,024 with the longest d; the last position.

    Deviations: pairs are made of the model's own captions, and the hallucinated one is the truthful
    one with an object swapped; ITI and LoFiT have questions of TruthfulQA. AFTER's facts are the
    names of the objects that are there, and its offset for each question, made by a trained MLP, is
    left out; whether it scales d to length 1, and where it adds it, is not known to us. DMAS's
    clusters of questions need a sentence encoder and a detector and are left out; ICT's directions
    are learned from questions of the test.

    Pitfalls: where `positions` is "all" and output projections have a bias, `vlmheads bake` writes
    the offsets into it.

    Cost: an addition in each layer with chosen heads and for each token.

    Evidence: none on images for ITI and LoFiT, which their authors tried on text. AFTER's authors,
    second-hand, on AMBER: CHAIR 6.9 to 4.5, hallucinated answers 31.6 to 20.5 %, without the MLP
    22.3; no recall known to us. On the embedded model the published strengths of iti and after are
    far too much; iti at a quarter beats plain captions at equal recall, object F1 +2.0 points
    [+1.2, +2.9] and +3.0 [+1.1, +4.9], and is above the same vectors at random heads
    (docs/effect.md); iti-probe and lofit are not distinguishable from plain
    (docs/methods.md).
    """

    name: ClassVar[str] = "offsets"
    paper: ClassVar[str] = (
        "ITI, NeurIPS 2023, arXiv 2306.03341; LoFiT, NeurIPS 2024; AFTER, ICLR 2026"
    )
    cost: ClassVar[str] = "no extra pass"
    search: ClassVar = ({"strength": 0.25}, {"strength": 0.5}, {"strength": 1.0}, {"strength": 2.0})

    learned: Learned | str | None = option(
        None,
        "what `vlmheads learn offsets` learned from this model, or its file",
        kind="learned",
        method="offsets",
        needed_by=("strength",),
        tensors={"offsets": "LHD", "scores": "LH", "count": "n", "everywhere": "n"},
    )
    strength: float = option(
        1.0, "factor on the offsets, whose own strength is the published one", low=0, high=100
    )
    count: int | None = option(
        None, "heads to add to, those with the highest scores; by default as learned",
        kind="int", low=1, high=100_000,
    )  # fmt: skip
    positions: str | None = option(
        None,
        "all positions, or the last of the prompt and those after it; by default as learned",
        choices=("all", "last"),
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a strength of nothing."""
        return cls(strength=0.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse offsets and scores that are not finite, and more heads than have one."""
        if not self.strength:
            return
        assert isinstance(self.learned, Learned)
        for name in ("offsets", "scores"):
            if not bool(self.learned.values[name].isfinite().all()):
                raise VlmHeadsError(f"{self.name}: {name} that are not finite", "numbers")
        held = int(self.learned.values["offsets"].any(dim=-1).sum())
        count = self._count(self.learned)
        if not 1 <= count <= held:
            raise VlmHeadsError(
                f"{self.name}: {count} heads, of which {held} have an offset", f"1 to {held}"
            )

    def _count(self, learned: Learned) -> int:
        return int(learned.values["count"][0]) if self.count is None else self.count

    def everywhere(self, learned: Learned) -> bool:
        """Whether all positions get the offsets."""
        if self.positions is not None:
            return self.positions == "all"
        return bool(learned.values["everywhere"][0])

    def added(self, learned: Learned) -> dict[int, Tensor]:
        """Layer -> what is added to its heads [H, D], of the layers with a chosen head."""
        offsets, scores = learned.values["offsets"], learned.values["scores"]
        scores = scores.masked_fill(~offsets.any(dim=-1), -torch.inf)
        order = scores.flatten().argsort(descending=True, stable=True)[: self._count(learned)]
        chosen = torch.zeros(scores.numel(), dtype=torch.bool).index_fill(0, order, True)
        found = self.strength * offsets * chosen.view_as(scores)[..., None]
        return {layer: part for layer, part in enumerate(found) if bool(part.any())}

    def fold(self, geometry: Geometry) -> Fold | None:
        """Return what becomes of the biases of output projections."""
        if not self.strength or not isinstance(self.learned, Learned):
            return Fold()
        note = "" if self.everywhere(self.learned) else _FOLDED
        return Fold(offsets=self.added(self.learned), note=note)

    def on_prompt(self, request: Request) -> None:
        """Lay the offsets out."""
        if not self.strength or not isinstance(self.learned, Learned):
            return
        device = request.has_image.device
        steps = {layer: part.to(device) for layer, part in self.added(self.learned).items()}
        request.scratch(self)["steps"] = steps
        request.scratch(self)["everywhere"] = self.everywhere(self.learned)

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Add the offsets of a layer, and refuse those for heads of another size."""
        scratch = request.scratch(self)
        step: Tensor | None = scratch.get("steps", {}).get(layer)
        if step is None:
            return heads
        if step.shape[1] != heads.shape[3]:
            raise VlmHeadsError(
                f"{self.name}: offsets for heads of size {step.shape[1]}", f"{heads.shape[3]}"
            )
        place = request.has_image.to(heads.device)[:, None]
        if not scratch["everywhere"]:
            place = place & request.predicting_rows(heads.shape[1]).to(heads.device)
        return heads + step[: heads.shape[2]].to(heads) * place[..., None, None]
