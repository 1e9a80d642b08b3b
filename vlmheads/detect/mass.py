"""Where each head looks when it says a word: on the image, the prompt or what was said so far."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.replay import layered, marks, require_images, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin
from vlmheads.runtime.attachment import attach, refuse_attached
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.passes import positions_kept
from vlmheads.runtime.request import Request

_ROWS = 32  # Attention rows in memory at a time.


@dataclass(frozen=True, eq=False)
class WordMass:
    """Attention mass of the rows that predict marked tokens, in order of row and token.

    The three masses of a head sum to 1, unless it has an attention sink without a value. They are
    float32 on the CPU, and not a number in layers without heads.

    Args:
        image: [W, L, H] on image tokens.
        prompt: [W, L, H] on the text of the prompt.
        generated: [W, L, H] on the tokens of the answer, the one just fed included.
        said: [W] how many tokens of the answer each row could attend to.
        geometry: of the model.
    """

    image: Tensor
    prompt: Tensor
    generated: Tensor
    said: Tensor
    geometry: Geometry

    @classmethod
    def concatenate(cls, parts: Sequence[WordMass]) -> WordMass:
        """Join what was recorded from several batches.

        Raises:
            VlmHeadsError: none to join.
        """
        if not parts:
            raise VlmHeadsError("no word was recorded", "at least one")
        return cls(
            torch.cat([part.image for part in parts]),
            torch.cat([part.prompt for part in parts]),
            torch.cat([part.generated for part in parts]),
            torch.cat([part.said for part in parts]),
            parts[0].geometry,
        )


@torch.no_grad()
def word_mass(model: Any, inputs: Mapping[str, Any], targets: Tensor, words: Tensor) -> WordMass:
    """Record where the heads of the plain model look when they predict marked tokens.

    The answers are appended to the prompts and read in one pass. What is recorded at a token
    belongs to the position before it, which predicts it.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right.
        words: [N, T] True for the tokens to record.

    Raises:
        VlmHeadsError: a model that cannot be attached to or has plugins attached, targets of
            another shape or with image tokens in them, marks of another shape or none at all, or no
            image in any prompt.
    """
    anatomy = examine(model)
    refuse_attached(anatomy)
    given = teacher_forced(anatomy, inputs, targets)
    require_images(anatomy, given)
    if bool(anatomy.is_visual(targets.to(given["input_ids"].device)).any()):
        raise VlmHeadsError("targets that hold image tokens", "the tokens of a text")
    chosen = marks("words", words, tuple(targets.shape)).cpu()
    if not bool(chosen.any()):
        raise VlmHeadsError("no marked word", "at least one token to record")
    if "logits_to_keep" in inspect.signature(anatomy.model.forward).parameters:
        given["logits_to_keep"] = 1
    probe = _Probe(targets.shape[1])
    with positions_kept(anatomy.model), attach(anatomy.model, probe):
        anatomy.model(**given, use_cache=False)
    image, prompt, generated = (
        layered(
            ((layer, part[chosen][:, kind]) for layer, part in probe.found.items()),
            anatomy.geometry,
        )
        for kind in range(3)
    )
    return WordMass(image, prompt, generated, chosen.nonzero()[:, 1], anatomy.geometry)


@dataclass(frozen=True)
class _Probe(Plugin):
    """Keep the mass [N, T, 3, H] on image, prompt and answer of the rows before the last tokens."""

    name: ClassVar[str] = "word mass"

    count: int = 1
    found: dict[int, Tensor] = field(default_factory=dict)

    @property
    def whole_map(self) -> bool:
        return True  # the first row is wanted, also of a prompt that ends in its image

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        image = rows.image_keys
        answer = torch.arange(image.shape[1], device=image.device) >= image.shape[1] - self.count
        answer = answer.expand_as(image)
        kinds = torch.stack([image, ~image & ~answer, answer], dim=1)
        stop = rows.editable.shape[1] - 1
        shares = []
        for start in range(stop - self.count, stop, _ROWS):
            part = rows.part(slice(start, min(start + _ROWS, stop)))  # [N, H, q, K]
            shares.append(torch.einsum("nhqk,nck->nqch", part, kinds.to(part)).cpu())
        self.found[layer] = torch.cat(shares, dim=1)
        return rows
