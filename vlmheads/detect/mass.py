"""Where each head looks when it says a word: on the image, the prompt or what was said so far."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.detect.replay import layered, marks, require_images, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy, examine
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
        apart: [W, L, H] on columns of the prompt that were asked for apart, which are in one of the
            others, too; None where there were none.
    """

    image: Tensor
    prompt: Tensor
    generated: Tensor
    said: Tensor
    geometry: Geometry
    apart: Tensor | None = None

    @classmethod
    def concatenate(cls, parts: Sequence[WordMass]) -> WordMass:
        """Join what was recorded from several batches.

        Raises:
            VlmHeadsError: none to join.
        """
        if not parts:
            raise VlmHeadsError("no word was recorded", "at least one")
        apart = [part.apart for part in parts if part.apart is not None]
        return cls(
            torch.cat([part.image for part in parts]),
            torch.cat([part.prompt for part in parts]),
            torch.cat([part.generated for part in parts]),
            torch.cat([part.said for part in parts]),
            parts[0].geometry,
            torch.cat(apart) if len(apart) == len(parts) else None,
        )


@torch.no_grad()
def word_mass(
    model: Any,
    inputs: Mapping[str, Any],
    targets: Tensor,
    words: Tensor,
    apart: Tensor | None = None,
) -> WordMass:
    """Record where the heads of the plain model look when they predict marked tokens.

    The answers are appended to the prompts and read in one pass. What is recorded at a token
    belongs to the position before it, which predicts it.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right.
        words: [N, T] True for the tokens to record.
        apart: [N, S] True for columns of the prompts whose mass is also recorded by itself.

    Raises:
        VlmHeadsError: a model that cannot be attached to or has plugins attached, targets of
            another shape or with image tokens in them, marks of another shape or none at all, or no
            image in any prompt.
    """
    if apart is not None:
        marks("apart", apart, tuple(inputs["input_ids"].shape))
    probe = _Probe(targets.shape[1], apart)
    geometry = read_words(model, inputs, targets, words, probe).geometry
    chosen = words.cpu().bool()
    image, prompt, generated, own = (
        layered(((layer, part[chosen][:, kind]) for layer, part in probe.found.items()), geometry)
        for kind in range(4)
    )
    said = chosen.nonzero()[:, 1]
    return WordMass(image, prompt, generated, said, geometry, None if apart is None else own)


def read_words(
    model: Any, inputs: Mapping[str, Any], targets: Tensor, words: Tensor, probe: Plugin
) -> Anatomy:
    """Run prompts with answers after them through the plain model, under a probe that only reads.

    See `word_mass` for what is refused.
    """
    anatomy = examine(model)
    refuse_attached(anatomy)
    given = teacher_forced(anatomy, inputs, targets)
    require_images(anatomy, given)
    if bool(anatomy.is_visual(targets.to(given["input_ids"].device)).any()):
        raise VlmHeadsError("targets that hold image tokens", "the tokens of a text")
    if not bool(marks("words", words, tuple(targets.shape)).any()):
        raise VlmHeadsError("no marked word", "at least one token to record")
    if "logits_to_keep" in inspect.signature(anatomy.model.forward).parameters:
        given["logits_to_keep"] = 1
    with positions_kept(anatomy.model), attach(anatomy.model, probe):
        anatomy.model(**given, use_cache=False)
    return anatomy


@dataclass(frozen=True)
class _Probe(Plugin):
    """Keep the mass [N, T, 4, H] of the rows before the last tokens.

    It is that on image, prompt, answer and the columns of the prompt asked for apart.
    """

    name: ClassVar[str] = "word mass"

    count: int = 1
    apart: Tensor | None = None
    found: dict[int, Tensor] = field(default_factory=dict)

    @property
    def whole_map(self) -> bool:
        return True  # the first row is wanted, also of a prompt that ends in its image

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        image = rows.image_keys
        answer = torch.arange(image.shape[1], device=image.device) >= image.shape[1] - self.count
        answer = answer.expand_as(image)
        own = torch.zeros_like(image)
        if self.apart is not None:
            own = request.prompt_keys(F.pad(self.apart.to(image), (0, self.count)), image.shape[1])
        kinds = torch.stack([image, ~image & ~answer, answer, own], dim=1)
        stop = rows.editable.shape[1] - 1
        shares = []
        for start in range(stop - self.count, stop, _ROWS):
            part = rows.part(slice(start, min(start + _ROWS, stop)))  # [N, H, q, K]
            shares.append(torch.einsum("nhqk,nck->nqch", part, kinds.to(part)).cpu())
        self.found[layer] = torch.cat(shares, dim=1)
        return rows
