"""Revis: steer a token towards what the image adds to the truth, where it points away from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request

FORMS = ("paper", "release")


@dataclass(frozen=True)
class Revis(Plugin):
    """Steer hidden states along a vector of visual truth, where the risk is high.

    After layer l, at every position,

        h ← h + α v where −cos(h, v) > τ

    with h the residual stream and −cos(h, v) the risk; v keeps its length.

    Needs: v is learned from pairs of captions of an image, from states at the last token: truth
    samples are (image, truthful) − (no image, truthful), prior samples (no image, hallucinated) −
    (no image, an answer like "I don't know."). Truth samples lose what they have along the prior.
    In the paper v and the prior are means; in the release first principal components times the mean
    length. A component has no sign, and on Qwen the released vectors point against the mean of
    their samples in some layers; here it is that of the mean. l is the layer nearest to the end, of
    the upper 22 of 32, where questions wrongly answered with yes have a higher mean risk than
    others, and τ the 80th (paper) or 85th (script) percentile of the risk of rightly answered ones.
    `vlmheads learn revis` does all of it, for both forms; `layer` and `tau` override its choice.

    Source: ICML 2026, arXiv 2602.11824, and antgroup/Revis: α = 2.5, l = 27, τ = 0.2 on its command
    line, α = 1.6 for Qwen2.5-VL in the paper.

    Deviations: pairs and questions are made of the model's own captions and the data's objects; a
    vector belongs to the output of the layer that it is added to, where the release counts hidden
    states from the embeddings on, and takes those of the last layer after the norm. The released
    vectors are not read.

    Cost: a scalar product a token, in one layer.

    Evidence: the authors' table, Qwen2.5-VL, 512 tokens: CHAIR_S 25.0, the best of its baselines
    29.0 (AGLA); MM-Vet 70.2 to 72.2. No recall, and nobody else's run known to us.
    Learned on the second bench, it was one of the last three of a search and is not shown to help
    (docs/tune.md). On the embedded model the published strength, a length in Qwen2.5-VL's residual
    stream, breaks the captions; at 0.5 it is not distinguishable from plain (docs/effect.md).

    Pitfalls: α counts in lengths of v, which differ by form and layer: it has to be chosen anew for
    each model.
    """

    name: ClassVar[str] = "revis"
    paper: ClassVar[str] = "ICML 2026, arXiv 2602.11824"
    cost: ClassVar[str] = "no extra pass"
    search: ClassVar = (
        {"alpha": 0.5},
        {"alpha": 1.0},
        {"alpha": 2.5},
        {"alpha": 2.5, "form": "release"},
    )

    learned: Learned | str | None = option(
        None,
        "what `vlmheads learn revis` learned from this model, or its file",
        kind="learned",
        method="revis",
        needed_by=("alpha",),
        tensors={"vectors": "FLE", "thresholds": "FL", "layers": "F"},
    )
    alpha: float = option(2.5, "strength; 0 is none", low=0.0, high=100.0)
    layer: int | None = option(
        None, "where to act; by default as it was learned", kind="int", low=0
    )
    tau: float | None = option(
        None, "risk above which to steer; by default as it was learned", low=-2.0, high=2.0
    )
    form: str = option("paper", "vectors as written, or as released", choices=FORMS)

    @classmethod
    def neutral(cls) -> Self:
        """Return no steering."""
        return cls(alpha=0.0)

    def chosen(self) -> tuple[int, Tensor, float]:
        """Return the layer to act on, v [E], and τ."""
        assert isinstance(self.learned, Learned)
        form, values = FORMS.index(self.form), self.learned.values
        layer = int(values["layers"][form]) if self.layer is None else self.layer
        tau = float(values["thresholds"][form, layer]) if self.tau is None else self.tau
        return layer, values["vectors"][form, layer], tau

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse vectors of other forms, and a layer that is not there."""
        if not self.alpha:
            return
        assert isinstance(self.learned, Learned)
        held = len(self.learned.values["layers"])
        if held != len(FORMS):
            raise VlmHeadsError(f"{self.name}: vectors of {held} forms", f"{len(FORMS)}")
        layer = int(self.learned.values["layers"][FORMS.index(self.form)])
        layer = layer if self.layer is None else self.layer
        geometry.check_layers((layer,), f"{self.name}: layer={layer}")

    def on_prompt(self, request: Request) -> None:
        """Refuse vectors of another width."""
        if not self.alpha:
            return
        model: Any = request.anatomy.model
        layer, vector, tau = self.chosen()
        width, held = model.get_input_embeddings().embedding_dim, len(vector)
        if width != held:
            raise VlmHeadsError(
                f"{self.name}: vectors of width {held}",
                f"width {width}, that of {request.geometry.model_type}",
                "learn them from this model",
            )
        request.scratch(self)["chosen"] = layer, vector.to(request.has_image.device), tau

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Steer where the risk is high."""
        if not self.alpha or site != "residual":
            return hidden
        chosen, vector, tau = request.scratch(self)["chosen"]
        if layer != chosen:
            return hidden
        states = at_least_float32(hidden)
        vector = vector.to(states)
        risk = -F.cosine_similarity(states, vector, dim=-1)
        acts = (risk > tau) & request.has_image.to(hidden.device)[:, None]
        steered = (states + self.alpha * vector).to(hidden.dtype)
        return torch.where(acts[..., None], steered, hidden)
