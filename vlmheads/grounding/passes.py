"""The forward passes over a prompt and its answer, and what is kept of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vlmheads.detect.divergence import head_divergence
from vlmheads.grounding.candidates import Candidates, joined, likeliest
from vlmheads.grounding.readings import Needs
from vlmheads.grounding.states import RowStates, kept_states
from vlmheads.model.anatomy import Anatomy
from vlmheads.plugin import Plugin
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attachment import attach
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.passes import positions_kept
from vlmheads.runtime.prompt import read_prompt
from vlmheads.runtime.request import Request

_ROWS = 32  # Attention rows in memory at a time.
_POSITIONS = 32  # Positions whose logits are widened at a time.


class Shares(NamedTuple):
    """What T rows of a layer attend to.

    Args:
        image: [N, T, H] weight on image tokens.
        answer: [N, T, H] weight on the tokens of the answer.
        patches: [N, T, H, P] weights on every image token, where asked for.
    """

    image: Tensor
    answer: Tensor
    patches: Tensor | None


@dataclass(frozen=True, eq=False)
class Passes:
    """What was kept of one or two passes over a batch of N prompts with answers of T tokens.

    Args:
        log_probability: [N, T] of the answer's tokens, with the image.
        entropy: [N, T] of the next-token distributions, with the image.
        without: [N, T] log-probability with the image deleted, where that pass was made.
        divergence: layer -> [N, T, H] VHD.
        attention: layer -> what its rows attend to.
        states: of each row, what the lens scores need.
        candidates: the likeliest tokens with the image, and with it deleted, where asked for.
    """

    log_probability: Tensor
    entropy: Tensor
    without: Tensor | None
    divergence: Mapping[int, Tensor]
    attention: Mapping[int, Shares]
    states: Sequence[RowStates]
    candidates: tuple[Candidates, Candidates] | None = None


class _Read(NamedTuple):
    """What one pass says of the T tokens of an answer: [N, T] each, and the likeliest ones."""

    log_probability: Tensor
    entropy: Tensor
    candidates: Candidates | None


def run_passes(
    anatomy: Anatomy,
    given: Mapping[str, Any],
    targets: Tensor,
    needs: Needs,
    *,
    patches: bool = False,
    candidates: int = 0,
) -> Passes:
    """Run the plain model over prompts with answers: once, or twice where the needs ask for it.

    Args:
        anatomy: the parts of the model.
        given: prompts with their answers, as `teacher_forced` makes them.
        targets: [N, T] the answers, the last columns of the prompts.
        needs: what is kept.
        patches: keep the attention weights on every image token, too.
        candidates: how many of the likeliest tokens to keep of each position of both passes.
    """
    count = targets.shape[1]
    heads, rows = _Heads(count), _Attention(count, patches)
    probes: list[Plugin] = [heads] if needs.heads else []
    probes += [rows] if needs.attention or patches else []
    with positions_kept(anatomy.model):
        with ExitStack() as stack:
            if probes:
                stack.enter_context(attach(anatomy.model, probes))
            kept = stack.enter_context(kept_states(anatomy, given, count, needs))
            seeing = _read(anatomy.model, given, targets, candidates)
        blind, divergence = None, dict[int, Tensor]()
        if needs.without or needs.heads or candidates:
            divergence, blind = _without(anatomy, given, targets, heads.kept, candidates)
    return Passes(
        seeing.log_probability,
        seeing.entropy,
        blind.log_probability if blind else None,
        divergence,
        rows.kept,
        kept,
        (seeing.candidates, blind.candidates)
        if blind and blind.candidates and seeing.candidates
        else None,
    )


def _read(
    model: nn.Module, given: Mapping[str, Any], targets: Tensor, candidates: int = 0
) -> _Read:
    """Run the model once, and read the positions before the last T tokens."""
    count = targets.shape[1]
    given = dict(given)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        given["logits_to_keep"] = count + 1
    logits = model(**given, use_cache=False, return_dict=True).logits[:, -count - 1 : -1]
    said: list[Tensor] = []
    entropies: list[Tensor] = []
    best: list[Candidates] = []
    for start in range(0, count, _POSITIONS):
        part = slice(start, start + _POSITIONS)
        log = at_least_float32(logits[:, part]).log_softmax(dim=-1)
        said.append(log.gather(-1, targets[:, part, None])[..., 0])
        # A banned token has probability 0 and log-probability minus infinity.
        entropies.append(torch.special.entr(log.exp()).sum(dim=-1))
        if candidates:
            best.append(likeliest(log, candidates))
    return _Read(
        torch.cat(said, dim=1).cpu().float(),
        torch.cat(entropies, dim=1).cpu().float(),
        joined(best) if best else None,
    )


def _without(
    anatomy: Anatomy,
    given: Mapping[str, Any],
    targets: Tensor,
    seen: dict[int, Tensor],
    candidates: int,
) -> tuple[dict[int, Tensor], _Read]:
    """Divergence of each layer [N, T, H], and what a pass says, of the image deleted."""
    count = targets.shape[1]
    full = read_prompt(anatomy, dict(given))
    prompt, sees = full.without_images(), full.has_image[:, None, None]
    found: dict[int, Tensor] = {}

    def compare(layer: int, args: tuple[Any, ...]) -> None:
        heads = anatomy.split_heads(layer, args[0])[:, -count - 1 : -1]
        found[layer] = (head_divergence(seen.pop(layer), heads) * sees).cpu()

    def listen(layer: int, projection: nn.Module) -> Any:
        return projection.register_forward_pre_hook(lambda _, args: compare(layer, args))

    text: dict[str, Any] = {"input_ids": prompt.ids, **prompt.token_types}
    text["position_ids"] = prompt.positions(anatomy.family.first_position)
    if not bool(prompt.mask.all()):
        text["attention_mask"] = prompt.mask.long()
    with ExitStack() as stack:
        for layer in tuple(seen):
            projection = anatomy.projections[layer]
            if projection is not None:
                stack.callback(listen(layer, projection).remove)
        return found, _read(anatomy.generator, text, targets, candidates)


@dataclass(frozen=True)
class _Heads(Plugin):
    """Keep the head outputs before the last tokens."""

    name: ClassVar[str] = "grounding-heads"

    count: int = 1
    kept: dict[int, Tensor] = field(default_factory=dict)

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        # A copy: a view would keep all positions alive.
        self.kept[layer] = heads[:, -self.count - 1 : -1].clone()
        return heads


@dataclass(frozen=True)
class _Attention(Plugin):
    """Keep what the rows before the last tokens attend to."""

    name: ClassVar[str] = "grounding-attention"

    count: int = 1
    patches: bool = False
    kept: dict[int, Shares] = field(default_factory=dict)

    @property
    def whole_map(self) -> bool:
        return True  # the first row is wanted, also of a prompt that ends in its image

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        stop = rows.editable.shape[1] - 1
        image, answer, weights = [], [], []
        said = torch.zeros_like(request.image_mask)
        said[:, -self.count :] = True
        for start in range(stop - self.count, stop, _ROWS):
            part = rows.part(slice(start, min(start + _ROWS, stop)))  # [N, H, q, K]
            new = request.prompt_keys(said, part.shape[-1])
            image.append((part * rows.image_keys[:, None, None]).sum(dim=-1))
            answer.append((part * new[:, None, None]).sum(dim=-1))
            if self.patches:
                seen = rows.image_keys[:, None, None].expand_as(part)
                weights.append(part[seen].view(*part.shape[:3], -1).cpu())
        self.kept[layer] = Shares(
            torch.cat(image, dim=2).transpose(1, 2).cpu(),
            torch.cat(answer, dim=2).transpose(1, 2).cpu(),
            torch.cat(weights, dim=2).transpose(1, 2) if self.patches else None,
        )
        return rows
