"""PTI: turn what the cache keeps of the image and of the prompt's end, once, in the prefill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request

_TINY = 1e-12
Released = Mapping[str, Sequence[Tensor]]


def from_release(image: Released, text: Released, geometry: Geometry) -> Learned:
    """Return the authors' vectors as the plugin takes them.

    Args:
        image: what one of their files holds: under "keys" and "values" a tensor [1, Hkv, D] for
            each layer. Read it with `torch.load(path, weights_only=True)`.
        text: likewise.
        geometry: of the model that they are for, `vlmheads.attach(model, ...).anatomy.geometry`.

    Raises:
        VlmHeadsError: other names, or another number of layers.
    """
    values = {}
    for kind, held in (("image", image), ("text", text)):
        for name in ("keys", "values"):
            if name not in held or len(held[name]) != geometry.layers:
                raise VlmHeadsError(
                    f"{kind} vectors with {', '.join(held)} of "
                    f"{', '.join(str(len(one)) for one in held.values())} layers",
                    f"keys and values of {geometry.layers} layers each",
                )
            values[f"{kind}_{name}"] = torch.stack([one[0] for one in held[name]])
    return Learned("pti", values, geometry, {"from": "the authors' release"})


@dataclass(frozen=True)
class PTI(Plugin):
    """Move the prompt's cached keys and values along learned directions, once, in the prefill.

    In the prefill, in every layer and head, before the row of the last prompt token and after all
    others, cached keys and values x are moved along the layer's directions s: image positions along
    the image's, the last prompt token but one along the text's. With κ a strength for keys and one
    for values,

        x ← x + κ s                                                           (paper)
        x ← ‖x‖ u / ‖u‖,  u = x/‖x‖ + κ (1 + max(cos(x, −s), 0)) s/‖s‖        (release)

    Nothing happens afterwards. Rows before the last never see the edit.

    Needs: directions are, for each layer with its heads side by side, the mean of differences plus
    their first principal component of length 1, which gets the sign of the mean. `vlmheads learn
    pti` learns them; `from_release` takes the authors' own files, which are not here.

    Source: prefill-time intervention, CVPR 2026, arXiv 2604.25642, and huaiyi66/PTI: κ = 0.1 for
    keys and 0.6 for values, 100 images of COCO's training set, "Please help me describe the image
    in detail.".

    Deviations: the authors blot out objects and background by segmentation masks, we by boxes, with
    the image's mean colour; their captions are COCO's, ours the model's own, with hallucinated
    clauses dropped. The text's difference is the last token of the prompt with a list of the
    objects, minus that with the caption without its object words, in both.

    Cost: nothing after the prefill, but for what an edited cache needs.

    Evidence: the authors' table, which pays in recall: 47.4/13.7 at F1 75.3 to 15.4/5.4 at F1 72.7;
    image alone 16.8/6.2 at 70.3, text alone 40.8/12.0 at 76.5; POPE adversarial 75.4 to 77.4.
    Nobody else's run known to us. On the embedded model the released form is worse on both kinds
    of scenes, object F1 at equal recall -8.5 points [-10.5, -6.9] and -8.7 [-10.9, -6.5], and the
    paper's is not better on either (docs/effect.md).
    """

    name: ClassVar[str] = "pti"
    paper: ClassVar[str] = "CVPR 2026, arXiv 2604.25642"
    cost: ClassVar[str] = "one more attention row per layer, in the prefill"
    search: ClassVar = (
        {"form": "release"},
        {"form": "release", "key_strength": 0.05, "value_strength": 0.3},
        {"form": "release", "value_strength": 1.2},
        {},
    )

    directions: Learned | str | None = option(
        None,
        "what `vlmheads learn pti` learned from this model, or its file",
        kind="learned",
        method="pti",
        needed_by=("key_strength", "value_strength"),
        tensors={
            "image_keys": "LGD",
            "image_values": "LGV",
            "text_keys": "LGD",
            "text_values": "LGV",
        },
    )
    key_strength: float = option(0.1, "how far keys are moved; 0 is none", low=0.0, high=100.0)
    value_strength: float = option(0.6, "how far values are moved; 0 is none", low=0.0, high=100.0)
    form: str = option("paper", "added, or turned as released", choices=("paper", "release"))

    @classmethod
    def neutral(cls) -> Self:
        """Return moves of nothing."""
        return cls(key_strength=0.0, value_strength=0.0)

    def on_cache(
        self, request: Request, layer: int, keys: Tensor, values: Tensor, new: int
    ) -> tuple[Tensor, Tensor]:
        """Move the image's keys and values, and those of the last prompt token but one."""
        if not request.is_prefill or not isinstance(self.directions, Learned):
            return keys, values
        held, count, end = self.directions.values, keys.shape[2], request.prompt_length - 2
        column = torch.arange(request.prompt_length, device=request.image_mask.device)
        before = (column == end) & request.prompt.mask.bool()
        places = [request.image_keys(count), request.prompt_keys(before, count)]
        moved = []
        for name, states, strength in (
            ("keys", keys, self.key_strength),
            ("values", values, self.value_strength),
        ):
            for kind, place in zip(("image", "text"), places, strict=True):
                if strength:
                    direction = held[f"{kind}_{name}"][layer]
                    self._fit(request, direction, states, name)
                    found = self._moved(states, direction.to(states.device), strength)
                    states = torch.where(place.to(states.device)[:, None, :, None], found, states)
            moved.append(states)
        return moved[0], moved[1]

    def _fit(self, request: Request, direction: Tensor, states: Tensor, name: str) -> None:
        """Refuse directions [Hkv, D] of other heads than those of the states [B, Hkv, K, D]."""
        size = [states.shape[1], states.shape[3]]
        if list(direction.shape) != size:
            raise VlmHeadsError(
                f"{self.name}: directions of {name} {list(direction.shape)}",
                f"{size}, heads and size of {name} in {request.geometry.model_type}",
                "learn them from this model",
            )

    def _moved(self, states: Tensor, direction: Tensor, strength: float) -> Tensor:
        """Return states [B, Hkv, K, D] moved along a direction [Hkv, D]."""
        wide = at_least_float32(states)
        along = direction[None, :, None].to(wide)
        if self.form == "paper":
            return (wide + strength * along).to(states.dtype)
        length = wide.norm(dim=-1, keepdim=True)
        against = F.cosine_similarity(wide, -along, dim=-1).clamp(min=0)[..., None]
        unit = wide / length.clamp(min=_TINY)
        unit = unit + strength * (1 + against) * F.normalize(along, dim=-1)
        turned: Tensor = length * F.normalize(unit, dim=-1)
        return turned.to(states.dtype)
