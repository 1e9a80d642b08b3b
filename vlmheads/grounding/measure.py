"""What the image gives each word of an answer: head divergence, attention and probability."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlmheads.detect.divergence import head_divergence
from vlmheads.detect.replay import after_end, require_images, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.plugin import Plugin
from vlmheads.runtime.attachment import attach, refuse_attached
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.passes import positions_kept
from vlmheads.runtime.prompt import read_prompt
from vlmheads.runtime.request import Request

_ROWS = 32  # Attention rows in memory at a time.


@dataclass(frozen=True, eq=False)
class Grounding:
    """What `grounding` measured at the positions that predict the tokens of an answer.

    Everything is float32 on the CPU, and 0 after a row's first end token and where a prompt has no
    image; the log-probabilities of such a prompt are its own in both streams.

    Args:
        divergence: [N, T, L, H] VHD, what the image changes in the output of each head.
        attention: [N, T, L, H] share of the attention row that is on image tokens.
        log_probability: [N, T] of the token, with the image.
        log_probability_without: [N, T] of the token, with the image deleted.
        patches: [N, T, L, H, P] attention weights on the P image tokens, where asked for.
    """

    divergence: Tensor
    attention: Tensor
    log_probability: Tensor
    log_probability_without: Tensor
    patches: Tensor | None = None

    def token_divergence(self, k: int) -> Tensor:
        """T-VHD of each token [N, T]: the k largest VHD of every layer, summed over the layers.

        Source: He et al., ACL 2025, arXiv 2412.13949, Eq. 5; the paper leaves k open.

        Raises:
            VlmHeadsError: k that the layers do not have.
        """
        heads = self.divergence.shape[-1]
        if not 1 <= k <= heads:
            raise VlmHeadsError(f"k={k}", f"a number from 1 to {heads} heads of a layer")
        return self.divergence.topk(k, dim=-1).values.sum(dim=(2, 3))


@torch.no_grad()
def grounding(
    model: Any, inputs: Mapping[str, Any], targets: Tensor, *, patches: bool = False
) -> Grounding:
    """Measure how far the image supports each token of a given answer.

    The answer is appended to the prompt and the plain model reads both twice, with the image
    and with its embeddings deleted. What is measured at a token belongs to the position before it,
    which predicts it. Answers that were generated under plugins are measured on the plain model
    all the same.

    Memory: of each layer the head outputs at T positions, and a few rows of attention at a time;
    patches keep T rows of each head.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right with the end token.
        patches: keep the weights on every image token, too; each prompt then needs the same
            number of them, as one image a prompt gives in most families.

    Raises:
        VlmHeadsError: a model that cannot be attached to or has plugins attached, targets of
            another shape or with image tokens in them, no image in any prompt, or, for patches,
            prompts with different numbers of image tokens.
    """
    anatomy = examine(model)
    refuse_attached(anatomy)
    given = teacher_forced(anatomy, inputs, targets)
    require_images(anatomy, given)
    targets = given["input_ids"][:, -targets.shape[1] :]
    if bool(anatomy.is_visual(targets).any()):
        raise VlmHeadsError("targets that hold image tokens", "the tokens of a text")
    visual = anatomy.is_visual(given["input_ids"])
    _check_patches(visual, patches)
    probe = _Probe(targets.shape[1], patches)
    with positions_kept(anatomy.model):
        with attach(anatomy.model, probe):
            seeing = _log_probability(anatomy.model, given, targets)
        divergence, blind = _without(anatomy, given, targets, probe)
    geometry = anatomy.geometry
    shape = (*targets.shape, geometry.layers, geometry.heads)
    ended = after_end(targets, anatomy.generator.generation_config.eos_token_id)

    def kept(values: Tensor) -> Tensor:
        return values.masked_fill(ended[(...,) + (None,) * (values.ndim - 2)], 0)

    return Grounding(
        kept(_layered(divergence, shape)),
        kept(_layered({at: share for at, (share, _) in probe.attention.items()}, shape)),
        kept(seeing),
        kept(blind),
        kept(
            _layered(
                {at: part for at, (_, part) in probe.attention.items() if part is not None},
                (*shape, int(visual[0].sum())),
            )
        )
        if patches
        else None,
    )


def _check_patches(visual: Tensor, patches: bool) -> None:
    """Refuse to lay out weights on image tokens where the prompts differ in their number."""
    counts = visual.sum(dim=1).tolist()
    if patches and len(set(counts)) > 1:
        raise VlmHeadsError(
            f"prompts of {counts} image tokens",
            "the same number in each, for patches=True",
            "measure them one by one",
        )


def _log_probability(model: nn.Module, given: Mapping[str, Any], targets: Tensor) -> Tensor:
    """Run the model once; log-probability [N, T] of the targets, the last tokens of the prompt."""
    count = targets.shape[1]
    given = dict(given)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        given["logits_to_keep"] = count + 1
    logits = model(**given, use_cache=False, return_dict=True).logits[:, -count - 1 : -1]
    wide = torch.promote_types(logits.dtype, torch.float32)
    found: Tensor = logits.log_softmax(dim=-1, dtype=wide)
    return found.gather(-1, targets[..., None])[..., 0].cpu().float()


def _without(
    anatomy: Anatomy, given: Mapping[str, Any], targets: Tensor, probe: _Probe
) -> tuple[dict[int, Tensor], Tensor]:
    """Divergence of each layer [N, T, H], and log-probabilities [N, T], of the image deleted."""
    count = targets.shape[1]
    full = read_prompt(anatomy, dict(given))
    prompt, sees = full.without_images(), full.has_image[:, None, None]
    found: dict[int, Tensor] = {}

    def compare(layer: int, args: tuple[Any, ...]) -> None:
        heads = anatomy.split_heads(layer, args[0])[:, -count - 1 : -1]
        found[layer] = (head_divergence(probe.heads.pop(layer), heads) * sees).cpu()

    def listen(layer: int, projection: nn.Module) -> Any:
        return projection.register_forward_pre_hook(lambda _, args: compare(layer, args))

    text: dict[str, Any] = {"input_ids": prompt.ids, **prompt.token_types}
    text["position_ids"] = prompt.positions(anatomy.family.first_position)
    if not bool(prompt.mask.all()):
        text["attention_mask"] = prompt.mask.long()
    with ExitStack() as stack:
        for layer, projection in enumerate(anatomy.projections):
            if projection is not None:
                stack.callback(listen(layer, projection).remove)
        return found, _log_probability(anatomy.generator, text, targets)


def _layered(found: Mapping[int, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Lay out what was found in each layer, [N, T, H, ...]; 0 where there is no head."""
    values = torch.zeros(shape)
    for layer, part in found.items():
        values[:, :, layer, : part.shape[2]] = part.float()
    return values


@dataclass(frozen=True)
class _Probe(Plugin):
    """Keep the head outputs before the last tokens, and what these rows attend to."""

    name: ClassVar[str] = "grounding"

    count: int = 1
    patches: bool = False
    heads: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    @property
    def whole_map(self) -> bool:
        return True  # the first row is wanted, also of a prompt that ends in its image

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        # A copy: a view would keep all positions alive.
        self.heads[layer] = heads[:, -self.count - 1 : -1].clone()
        return heads

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        stop = rows.editable.shape[1] - 1
        shares, weights = [], []
        for start in range(stop - self.count, stop, _ROWS):
            part = rows.part(slice(start, min(start + _ROWS, stop)))  # [N, H, q, K]
            shares.append((part * rows.image_keys[:, None, None]).sum(dim=-1))
            if self.patches:
                image = rows.image_keys[:, None, None].expand_as(part)
                weights.append(part[image].view(*part.shape[:3], -1).cpu())
        share = torch.cat(shares, dim=2).transpose(1, 2).cpu()
        image_weights = torch.cat(weights, dim=2).transpose(1, 2) if self.patches else None
        self.attention[layer] = (share, image_weights)
        return rows
