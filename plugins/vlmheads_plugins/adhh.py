"""AD-HH: switch heads off that look at the text where they look at little else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.gains.folds import Fold
from vlmheads.headmap import HeadMap
from vlmheads.model.geometry import Geometry
from vlmheads.options import pairs_of
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._maps import RANKED, ranked_heads, scaled_count

# The released list, most influential head first; it belongs to LLaVA-1.5-7B alone.
_RANKED = (
    "16-29 26-9 13-31 15-10 20-12 30-9 19-18 17-0 18-9 26-28 "
    "19-27 18-26 15-25 14-16 31-26 15-24 31-3 22-20 27-29 17-28"
).split()
PUBLISHED = pairs_of("the published heads", _RANKED)
_PUBLISHED_FOR = Geometry("llava", 32, 32)
_FOLDED = (
    "adhh is folded without its gate: the listed heads are off at every position, their weights on "
    "the image included, where the plugin removes their weights on text, and those only from its "
    "threshold on"
)


@dataclass(frozen=True)
class ADHH(Plugin):
    """Cut off the text after the image in listed heads whenever they attend to it too much.

        A_j ← 0 for text j after the image, where Σ_j A_j ≥ threshold

    in each listed head, in the row that predicts a token. What remains is not renormalised. The
    text after the image is all from the last image token on: the question, the tokens generated so
    far and the query itself.

    Source: adaptive deactivation of hallucination heads, Yang et al., ICLR 2025, and
    TianyunYoung/Hallucination-Attribution; 20 heads of LLaVA-1.5-7B, found by removing one head
    after the other and measuring object tokens, and threshold 0.4. They are the default on a LLaVA
    of 32 layers of 32 heads. The release also lists 35 heads of LLaVA-1.5-13B and 10 of
    LLaVA-1.6-34B: presets adhh-llava15-13b and adhh-llava-next-34b.

    Needs: a model that was not LLaVA-1.5-7B before fine-tuning needs heads of its own, such as
    `head_map` lists by the attribution that `vlmheads detect` measures.

    Deviations: the release sums the mass over the batch, so that it works for one prompt at a time;
    here each row has its own gate.

    Cost: an attention row a layer with listed heads and token.

    Evidence: CHAIR 53.4/14.3 to 34.2/8.9 at equal length in a third party's run, where 15 % of the
    grounded mentions disappeared and half of the images lost a grounded object; under sampling
    54.6 to 46.6, recall 72.6 to 66.5 (SEVI's authors).
    """

    name: ClassVar[str] = "adhh"
    paper: ClassVar[str] = "Yang et al., ICLR 2025"
    cost: ClassVar[str] = "an attention row per listed layer and token"
    search: ClassVar = ({"threshold": 0.4}, {"threshold": 0.2}, {"threshold": 0.0})

    heads: tuple[tuple[int, int], ...] | None = option(
        None,
        "heads (layer, head) that may be switched off; by default those of LLaVA-1.5-7B",
        kind="heads",
    )
    threshold: float = option(0.4, "least attention on the text after the image", low=0, high=1)
    head_map: HeadMap | str | None = option(
        None,
        "list the heads that work least for the image by this map, or file of one",
        kind="head_map",
        measures=RANKED,
    )
    count: int | None = option(
        None, "heads listed by the map; by default 20 of 1,024, scaled", low=1, high=100_000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads is not None and self.head_map is not None:
            raise VlmHeadsError(f"{self.name}: heads and head_map", "one of the two")

    def idle_options(self) -> dict[str, str]:
        """Count heads of a map alone."""
        return {} if self.head_map is not None else {"count": "head_map"}

    @classmethod
    def neutral(cls) -> Self:
        """Return a list of no heads."""
        return cls(heads=())

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse the published heads on another model, and heads that the model does not have."""
        if self.head_map is None and self.heads is None and geometry != _PUBLISHED_FOR:
            raise VlmHeadsError(
                f"{self.name} without heads on {geometry}",
                f"heads of this model; the published ones are of {_PUBLISHED_FOR} (1.5, 7B)",
                'set heads, such as [[16, 29]] or ["16-29"], or a head_map to list them',
            )
        self.listed(geometry)

    def listed(self, geometry: Geometry) -> tuple[tuple[int, int], ...]:
        """Return the heads that may be switched off, sorted."""
        if isinstance(self.head_map, HeadMap):
            count = scaled_count(self.name, self.count, len(PUBLISHED), geometry)
            return tuple(sorted(ranked_heads(self.head_map)[:count]))
        return PUBLISHED if self.heads is None else self.heads

    def fold(self, geometry: Geometry) -> Fold | None:
        """Return listed heads that are switched off for good."""
        if not (listed := self.listed(geometry)):
            return Fold()
        gains = torch.ones(geometry.layers, geometry.heads)
        gains[tuple(torch.tensor(listed).T)] = 0
        return Fold(gains, note=_FOLDED)

    def on_prompt(self, request: Request) -> None:
        """Lay out which heads of each layer are listed, and what of the prompt is text."""
        listed = self.listed(request.geometry)
        device = request.has_image.device
        scratch = request.scratch(self)
        scratch["heads"] = {}
        for layer in {layer for layer, _ in listed}:
            index = torch.tensor([head for other, head in listed if other == layer])
            mask = torch.zeros(request.geometry.heads, dtype=torch.bool)
            scratch["heads"][layer] = mask.index_fill(0, index, True).to(device)
        columns = torch.arange(request.prompt_length, device=device)
        scratch["behind"] = columns >= request.text_start[:, None]

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Set the weights on the text to 0 where they are too many."""
        scratch = request.scratch(self)
        listed: Tensor | None = scratch["heads"].get(layer)
        if listed is None:
            return rows
        weights = rows.weights
        heads, last, keys = weights.shape[1:]
        behind = request.prompt_keys(scratch["behind"], keys) | request.generated_keys(keys)
        behind = behind[:, None, None]
        mass = (weights * behind).sum(dim=-1)
        gate = (mass >= self.threshold) & listed[:heads, None] & request.predicting_rows(last)
        return rows.with_weights(weights.masked_fill(gate[..., None] & behind, 0))
