"""HulluEdit: keep of the last state what the image supports, and shrink the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._beams import came_from, refuse_layer_0
from vlmheads_plugins._contrast import settle
from vlmheads_plugins._exits import keep_output, kept_outputs

# An eigenvalue of this share of the largest, or less, is none.
_RANK = 1e-10


@dataclass(frozen=True)
class HulluEdit(Plugin):
    """Damp those parts of the last hidden state that the image does not support.

    V are the outputs of an anchor layer at the image tokens, T those at the text after the image,
    the tokens generated so far included. For the normed state h that predicts a token:

    1. w = softmax(cos(V, h) / temperature); U are the first `rank` right singular vectors of
       √w (V − Σ w V), P the first `prior_rank` of (T − mean T)(I − U Uᵀ);
       h_U = U Uᵀ h, h_P = P Pᵀ h, h_R = h − h_U − h_P.
    2. With vcr = max(|h_U|² / |h|², floor) and pcr = min(|h_P|² / |h|², ceiling):
       k_n = min(κ (1 − vcr) / vcr, most), and k_p = min(κ_p pcr / (1 − pcr), prior_most), which is
       0 where pcr < threshold.
    3. h' = h_U + h_P / (1 + k_n + k_p) + h_R / (1 + k_n), times (|h| / |h'|)^level, and the head is
       given (1 − blend) h + blend h'.

    Nothing else sees the edit: neither the cache nor later tokens' states. The anchors are taken as
    they leave their layer and h after the last norm, as in the release.

    Source: CVPR 2026, arXiv 2602.22727, and VioAgnes/HulluEdit: its configuration for POPE, the
    only one it has, is the default here; the anchor is the output of layer 25 of 32, scaled to the
    depth. The defaults of its class are 6, 4, 1.5, 0.6, 0.3, 0.05, 0.95, 0.02, 4, 4, 0.5 and 0.7 in
    the order of the options. In the paper a state is edited only where vcr is below one limit or
    pcr above another, worth 9.9 points of its ablation; the code has no such gate, and the limits
    are not known to us: `visual_gate` and `prior_gate` set them, for the shares as they are before
    `floor` and `ceiling`.

    Deviations: the release takes columns 1 to 576 for the image, with 34 tokens of text before it
    and without its last 34; here they are the image tokens, and of directions that do not exist,
    where there are fewer tokens than asked for, there are none. What the edit changes is added to
    the logits, so that other methods' edits stay.

    Cost: the outputs of a layer are kept, 5 MB of a prompt of 611 tokens and width 4,096; for each
    token two eigenvalue problems, of as many rows as there are image tokens and tokens of text,
    which wait for the device, and the vocabulary head for two more states.

    Evidence: second-hand from the authors' table, 64 tokens: CHAIR 20.4/7.1 to 13.0/4.2; POPE
    accuracy 87.8/82.5/77.6 to 90.4/87.5/82.5. No recall, and nobody else's run known to us. On the
    embedded model it is not distinguishable from plain: CHAIR_S at equal recall -6.0 [-12.0, +0.5]
    on 200 test scenes (docs/methods.md).
    """

    name: ClassVar[str] = "hulluedit"
    paper: ClassVar[str] = "CVPR 2026, arXiv 2602.22727"
    cost: ClassVar[str] = "two eigenvalue problems and two vocabulary heads per token"
    search: ClassVar = ({"blend": 0.4}, {"blend": 0.76}, {"blend": 1.0}, {"kappa": 2.0})

    rank: int = option(8, "directions of the image", low=1, high=1000)
    prior_rank: int = option(5, "directions of the text", low=1, high=1000)
    temperature: float = option(1.15, "of the weights of image tokens", low=0.001, high=1000)
    kappa: float = option(0.5, "how far all but the image's part is shrunk", low=0, high=100)
    prior_kappa: float = option(0.22, "how much further the text's part is", low=0, high=100)
    floor: float = option(0.045, "least share of the image's part", low=1e-6, high=1)
    ceiling: float = option(0.92, "largest share of the text's part", low=0, high=0.999999)
    threshold: float = option(0.015, "share from which the text's part is shrunk", low=0, high=1)
    most: float = option(3.2, "largest k_n", low=0, high=1000)
    prior_most: float = option(3.8, "largest k_p", low=0, high=1000)
    level: float = option(0.74, "how far the length is restored, from 0 to 1", low=0, high=1)
    blend: float = option(0.76, "share of the edit; 0 is none", low=0, high=1)
    visual_gate: float | None = option(
        None, "edit where the image's share is below it, as in the paper", low=0, high=1
    )
    prior_gate: float | None = option(
        None, "edit where the text's share is above it, as in the paper", low=0, high=1
    )
    layer: int | None = option(
        None,
        "the anchor, from 1 on; by default 25 of 32, scaled to the depth",
        kind="int",
        low=0,
        high=1000,
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a share of nothing."""
        return cls(blend=0.0)

    def chosen_layer(self, geometry: Geometry) -> int:
        """Return the anchor."""
        return geometry.scaled(25, 26)[0] if self.layer is None else self.layer

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse an anchor without attention, and layer 0."""
        layer = self.chosen_layer(geometry)
        geometry.check_layers((layer,), f"{self.name}: layer={layer}", attention=True)
        refuse_layer_0((layer,), self.name)

    def on_prompt(self, request: Request) -> None:
        """Lay out which columns are the image, and from where on there is text."""
        if not self.blend:
            return
        scratch, visual = request.scratch(self), request.image_mask
        count = int(visual.sum(dim=1).max())
        # Image columns first, in their order; rows with fewer are filled up.
        columns = visual.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        scratch["columns"], scratch["held"] = columns, visual.gather(1, columns)
        scratch["first"] = min(int(request.text_start.min()), request.prompt_length)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Bring the states of earlier tokens to the rows that go on from them."""
        if self.blend and layer == self.chosen_layer(request.geometry):
            scratch = request.scratch(self)
            order = came_from(request, scratch, rows.values)
            if request.cached:
                states: Tensor = scratch["states"]
                scratch["states"] = states[order.to(states.device), : request.cached]
        return rows

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Keep the outputs of the anchor, and that of the last layer."""
        if not self.blend or site != "residual":
            return hidden
        if layer == self.chosen_layer(request.geometry):
            scratch = request.scratch(self)
            before = [scratch["states"]] if request.cached else []
            scratch["states"] = torch.cat([*before, hidden], dim=1)
        if layer == request.geometry.layers - 1:
            keep_output(request, self, layer, hidden)
        return hidden

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Edit the state that the next token comes from, and read it once more."""
        if not self.blend:
            return logits
        last = request.geometry.layers - 1
        state = request.anatomy.normed(kept_outputs(request, self, (last,))[:, 0])
        edited = self._edited(request, _precise(state)).to(state.dtype)
        both = request.anatomy.unembed(torch.stack([edited, state], dim=1), norm=False)
        change = at_least_float32(both[:, 0]) - at_least_float32(both[:, 1])
        return settle(request, at_least_float32(logits) + change.to(logits.device), logits)

    def _edited(self, request: Request, state: Tensor) -> Tensor:
        """Return the edited states [B, E] of normed ones."""
        image, text = self._anchors(request, state)
        weights = F.cosine_similarity(image, state[:, None], dim=-1) / self.temperature
        held = request.scratch(self)["held"].to(state.device)
        weights = weights.masked_fill(~held, -torch.inf).softmax(dim=-1).nan_to_num()[..., None]
        mean = (weights * image).sum(dim=1, keepdim=True)
        visual = directions(weights.sqrt() * (image - mean), self.rank)
        prior = directions(text - (text @ visual.mT) @ visual, self.prior_rank)
        seen, said = _onto(state, visual), _onto(state, prior)
        total = state.square().sum(dim=-1, keepdim=True).clamp(min=1e-12)
        own = seen.square().sum(dim=-1, keepdim=True) / total
        own_said = said.square().sum(dim=-1, keepdim=True) / total
        vcr, pcr = own.clamp(min=self.floor), own_said.clamp(max=self.ceiling)
        shrink = (self.kappa * (1 - vcr) / vcr).clamp(max=self.most)
        more = (self.prior_kappa * pcr / (1 - pcr)).clamp(max=self.prior_most)
        more = torch.where(pcr < self.threshold, 0.0, more)
        rest = state - seen - said
        made = seen + said / (1 + shrink + more) + rest / (1 + shrink)
        length = made.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        made = made * (total.sqrt() / length) ** self.level
        found: Tensor = (1 - self.blend) * state + self.blend * made
        if self.visual_gate is None and self.prior_gate is None:
            return found
        acts = torch.zeros_like(vcr, dtype=torch.bool)
        if self.visual_gate is not None:
            acts = acts | (own < self.visual_gate)
        if self.prior_gate is not None:
            acts = acts | (own_said > self.prior_gate)
        return torch.where(acts, found, state)

    def _anchors(self, request: Request, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the anchor's states of the image and, less their mean, of the text [B, n, E].

        A row that is no token of its kind is 0.
        """
        scratch, device = request.scratch(self), like.device
        states: Tensor = scratch["states"][:, : request.seen + request.column + 1].to(device)
        columns, first = scratch["columns"].to(device), scratch["first"]
        image = states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))
        image = _precise(image).masked_fill(~scratch["held"].to(device)[..., None], 0)
        place = torch.arange(first, states.shape[1], device=device)
        later = (place >= request.text_start.to(device)[:, None])[..., None]
        text = _precise(states[:, first:]).masked_fill(~later, 0)
        mean = text.sum(dim=1, keepdim=True) / later.sum(dim=1, keepdim=True).clamp(min=1)
        return image, (text - mean).masked_fill(~later, 0)


def directions(states: Tensor, count: int) -> Tensor:
    """Return the first right singular vectors of [B, n, E] as rows, [B, count or fewer, E].

    A row is 0 where a matrix has no more directions than those before it.
    """
    short = states.shape[1] <= states.shape[2]
    gram = states @ states.mT if short else states.mT @ states
    found: Any = torch.linalg.eigh(gram)
    values, vectors = (
        found.eigenvalues.flip(-1)[:, :count],
        found.eigenvectors.flip(-1)[..., :count],
    )
    exists: Tensor = (values > _RANK * values[:, :1]) & (values > 0)
    rows: Tensor = vectors.mT @ states if short else vectors.mT
    return F.normalize(rows, dim=-1) * exists[..., None]


def _onto(state: Tensor, basis: Tensor) -> Tensor:
    """Return the part of states [B, E] that lies in the span of rows [B, k, E]."""
    found: Tensor = ((basis @ state[..., None]).mT @ basis)[:, 0]
    return found


def _precise(states: Tensor) -> Tensor:
    """Return states as float64, where the device has it: squares of singular values need it."""
    return states.to(torch.float32 if states.device.type == "mps" else torch.float64)
