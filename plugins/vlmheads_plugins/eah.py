"""Enhancing the attention heads of a shallow layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._sinks import column_scores, prompt_rows


@dataclass(frozen=True)
class EAH(Plugin):
    """Give all heads of the second layer the attention map of the head with most image sinks.

    In the attention map A of the prompt, N tokens long, column j has the score

        c_j = Σ_i A_ij / (N − j)

    The head with the most image columns above `threshold`, the first of several, gives its map to
    all heads of the layer, where at least one column is. Generated tokens attend as before.

    Source: Zhang et al., EMNLP 2025, arXiv 2411.09968, and its released code. `form="release"`
    follows what that code does: the diagonal is left out of the sums, the edit is made in every
    layer, head 0 is never chosen, and its threshold is 0.0008, which has to be passed.

    Deviations: the code's divisor counts from a fixed column of LLaVA-1.5's prompt; here it is N −
    j. With grouped keys each head keeps its own values.

    Cost: the attention map of the layer once more in the prefill, quadratic in the prompt; nothing
    in decoding.

    Evidence: CHAIR_S 38.8 on LLaVA-1.5-7B in the VHR paper, against 49.7; recall was not reported.
    The captions that the authors uploaded are those of another method's baseline.
    """

    name: ClassVar[str] = "eah"
    paper: ClassVar[str] = "Zhang et al., EMNLP 2025, arXiv 2411.09968"
    cost: ClassVar[str] = "one more attention map of one layer in the prefill"
    search: ClassVar = ({"threshold": 0.002}, {"threshold": 0.01})

    threshold: float = option(
        0.002, "an image token is a sink above this score; 1 is none", low=0, high=1
    )
    form: str = option(
        "paper", "follow the paper or the released code", choices=("paper", "release")
    )
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default the second, as released all", kind="layers"
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a threshold that no score is above."""
        return cls(threshold=1.0)

    @property
    def whole_map(self) -> bool:
        """The scores of the columns need every row."""
        return self.threshold < 1

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a model whose second layer, the default, has no attention heads."""
        if self.form == "paper":
            layers = self.chosen_layers(geometry)
            geometry.check_layers(layers, f"{self.name}: layers", attention=True)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on."""
        if self.layers is not None:
            return self.layers
        return (1,) if self.form == "paper" else tuple(range(geometry.layers))

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Copy the map of the chosen head, in the rows of the prompt."""
        count = prompt_rows(request, rows)
        layers = self.chosen_layers(request.geometry)
        if self.threshold == 1 or not count or layer not in layers:
            return rows
        scores = column_scores(rows, count, request.prompt_length, diagonal=self.form == "paper")
        found = ((scores > self.threshold) & request.image_mask[:, None]).sum(dim=-1)
        # Of several heads with as many sinks the first wins.
        heads = torch.arange(found.shape[1], device=found.device)
        best = (found * len(heads) - heads).argmax(dim=1)
        most = found.gather(1, best[:, None])[:, 0]
        copied = most > 0 if self.form == "paper" else (most > 0) & (best > 0)
        index = torch.arange(len(best), device=best.device)
        within = torch.zeros_like(rows.editable)
        within[:, :count] = rows.editable[:, :count] & copied[:, None]

        def copying(part: slice, weights: Tensor) -> Tensor:
            chosen = weights[index, best][:, None]
            return torch.where(within[:, None, part, None], chosen, weights)

        return rows.with_change(copying)
