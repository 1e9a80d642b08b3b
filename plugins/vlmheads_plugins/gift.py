"""GIFT: follow where attention moves as the question is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._marks import predicting_rows
from vlmheads_plugins._spread import scaled, top_half

# English words that carry no content of their own, for `function_words`.
_FUNCTION_WORDS = (
    "a an the this that these those some any each every no all both either neither such "
    "i you he she it we they me him her us them my your his its our their mine yours "
    "who whom whose which what where when why how there here "
    "and or but nor so yet if then than because while as of at by for with about against between "
    "into through during before after above below to from up down in out on off over under "
    "is are was were be been being am do does did have has had will would shall should can could "
    "may might must not please"
).split()


def function_words(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of tokens that are no content word, for the option `skip`.

    These are English function words of one token, with and without a capital and a space before
    them, and every token without a letter or digit. A word of several tokens is content.

    Args:
        tokenizer: of the model.
    """
    found = set(tokenizer.all_special_ids)
    for word in _FUNCTION_WORDS:
        for form in (word, word.capitalize()):
            for text in (form, f" {form}"):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                if len(ids) == 1:
                    found.add(ids[0])
    for token in range(len(tokenizer)):
        if not any(character.isalnum() for character in tokenizer.decode([token])):
            found.add(token)
    return tuple(sorted(found))


@dataclass(frozen=True)
class GIFT(Plugin):
    """Raise attention on what the question's words turned to in the image, and on the question.

    In the prefill, at layer l_0, for each content token i of the question and each head,
    D_i = max(A_i − A_(i−1), 0) on the image: what the token adds to the attention of the row before
    it. Of the heads the half with most D is kept; d is the mean over these heads and the tokens,
    cut at three standard deviations from its mean and scaled to 0..1. In the rows that predict a
    token, in each layer to act on:

    1. in the half of the heads with most attention on the image, A_j ← A_j exp(α d_j);
    2. in the half with most attention on the question, A_j ← r A_j for its tokens, where r is by
       how much step 1 multiplied the attention of its heads on the image, all of them together;
    3. each head's row is divided by its sum.

    Source: gaze-shift guided cross-modal fusion, ICML 2026, arXiv 2510.22067, and
    amazon-science/GIFT: α = 5; l_0 = 11 and layers 12 to 22 of LLaVA-1.5-7B, 10 and 14 to 20 of 40
    for 13B. Written from the formulas: the release is for non-commercial use.

    Deviations: content words are told by their token, not by tagging parts of speech: `skip` lists
    the tokens that are none, which `function_words(tokenizer)` makes; without it all of the
    question counts. One pass in place of the release's extra one, which is the same where l_0 is
    below all layers to act on; Qwen2-VL's l_0 = 14 with layers 5 to 18 is refused. Of an odd number
    of heads, half is rounded down. A question without content words changes nothing. The first
    token after the image has no row of text before it, and only serves the next.

    Needs: `lead` and `tail` say what is no part of the question: for LLaVA-1.5 the line break after
    the image (2 tokens) and " ASSISTANT:" (5).

    Cost: the rows of the question at one layer of the prefill; one attention row in each layer to
    act on and for each token.

    Evidence: the authors' table: 50.2/15.4 to 39.8/10.6, POPE F1 82.4 to 83.8; Qwen2-VL 24.8/9.1 to
    21.2/7.7; no recall, so truncation is not ruled out. At its default, the likeliest image token
    gains a factor of up to 148 before the row is renormalised. On the embedded model it is
    not distinguishable from plain (docs/methods.md).
    """

    name: ClassVar[str] = "gift"
    paper: ClassVar[str] = "ICML 2026, arXiv 2510.22067"
    cost: ClassVar[str] = "one more attention row in the middle layers and for each token"
    search: ClassVar = ({"alpha": 1.0}, {"alpha": 2.5}, {"alpha": 5.0})

    alpha: float = option(5.0, "strength on the image; 0 is none", low=0, high=10)
    source: int | None = option(
        None,
        "layer to read the question at; by default 11 of 32, scaled",
        kind="int",
        low=0,
        high=1000,
    )
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default 12 to 22 of 32, scaled to the depth", kind="layers"
    )
    skip: tuple[int, ...] = option(
        (), "tokens that are no content words; see function_words", kind="tokens"
    )
    lead: int = option(0, "tokens between the image and the question", low=0, high=1000)
    tail: int = option(0, "tokens of the prompt after the question", low=0, high=1000)

    @classmethod
    def neutral(cls) -> Self:
        """Return a strength of nothing."""
        return cls(alpha=0.0)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, tuple[int, ...]]:
        """Return the layer to read the question at and those to act on."""
        layers = geometry.scaled(12, 23) if self.layers is None else self.layers
        if self.source is not None:
            return self.source, layers
        below = [layer for layer in geometry.attention_layers if layer < min(layers)]
        return min(geometry.scaled(11, 12)[0], below[-1] if below else -1), layers

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse to read the question at a layer that is not below those to act on."""
        source, layers = self.chosen_layers(geometry)
        if source not in geometry.attention_layers or source >= min(layers):
            raise VlmHeadsError(
                f"{self.name}: source={source} with layers {list(layers)}",
                "a layer with heads below all of them: what they do depends on it, in one pass",
                "set source and layers",
            )

    def on_prompt(self, request: Request) -> None:
        """Mark the question and its content words [B, S]."""
        if not self.alpha:
            return
        prompt, device = request.prompt, request.has_image.device
        column = torch.arange(request.prompt_length, device=device)
        behind = column - self.lead >= request.text_start[:, None]
        question = behind & (column < request.prompt_length - self.tail) & prompt.mask.bool()
        skipped = torch.isin(prompt.ids, torch.tensor(self.skip, device=device, dtype=torch.long))
        scratch = request.scratch(self)
        scratch["question"], scratch["content"] = question, question & ~skipped

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Read the question at one layer, and follow it in those to act on."""
        if not self.alpha:
            return rows
        source, layers = self.chosen_layers(request.geometry)
        if layer == source and request.is_prefill:
            request.scratch(self)["gaze"] = self._gaze(request, rows)
        if layer not in layers:
            return rows
        scratch, weights, keys = request.scratch(self), rows.weights, rows.image_keys.shape[1]
        gaze = request.prompt_keys(scratch["gaze"].to(weights), keys)[:, None, None] * self.alpha
        question = request.prompt_keys(scratch["question"].to(weights.device), keys)[:, None, None]
        seen = (weights * rows.image_keys[:, None, None]).sum(dim=-1)
        looking = top_half(seen)
        gazed = (weights * gaze.exp() * rows.image_keys[:, None, None]).sum(dim=-1)
        before, after = (seen * looking).sum(dim=1), (gazed * looking).sum(dim=1)
        gain = torch.where(before > 0, after / before, 1.0).log()[:, None, :, None]
        asking = top_half((weights * question).sum(dim=-1))
        bias = gaze * looking[..., None] + gain * (asking[..., None] & question)
        place = predicting_rows(request, weights.shape[2])[:, None]
        return rows.with_bias(torch.where(place, bias, 0.0))

    def _gaze(self, request: Request, rows: Rows) -> Tensor:
        """Return d [B, S], where the question moves attention to; 0 off the image."""
        given = rows.part(slice(None))
        image = rows.image_keys[:, None, None]
        moved = ((given[:, :, 1:] - given[:, :, :-1]) * image).clamp(min=0)
        last = rows.editable.shape[1]
        column = torch.arange(request.seen - last, request.seen, device=given.device)
        inside = (column < request.prompt_length)[1:]
        content = request.scratch(self)["content"].to(given.device)
        content = content[:, column[1:].clamp(max=request.prompt_length - 1)] & inside
        content = content & rows.editable[:, 1:] & rows.editable[:, :-1]
        moved = torch.where(content[:, None, :, None], moved, 0.0).sum(dim=2)  # [B, H, K]
        kept = top_half(moved.sum(dim=-1, keepdim=True))
        # The mean over heads and tokens, up to a factor that the scaling below takes out.
        gaze = scaled((moved * kept).sum(dim=1), rows.image_keys)
        dropped = max(0, request.seen - gaze.shape[1])
        return F.pad(gaze, (dropped, 0))[:, : request.prompt_length]
