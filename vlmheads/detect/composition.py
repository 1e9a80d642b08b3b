"""Composition: which head reads from which, through the residual stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmheads.detect.replay import Replay, require_images
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.model.geometry import Geometry
from vlmheads.precision import at_least_float32
from vlmheads.runtime.prompt import read_prompt

Head = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Composition:
    """What `composition` measured.

    Args:
        heads: the K heads (layer, head), sorted.
        strength: [N, K, K] how far each head's output (second index, the reader) turns where
            another's (first index, the writer) is taken out of what its layer reads: the length of
            the change over the output's, mean of the text rows after the image. 0 where the writer
            is not in an earlier layer.
        geometry: of the model.
    """

    heads: tuple[Head, ...]
    strength: Tensor
    geometry: Geometry

    def edges(self, threshold: float = 0.0) -> list[tuple[Head, Head, float]]:
        """Return (writer, reader, strength) above a threshold, the strongest first."""
        mean = self.strength.mean(dim=0)
        found = [
            (self.heads[one], self.heads[other], float(mean[one, other]))
            for one, other in (mean > threshold).nonzero().tolist()
        ]
        return sorted(found, key=lambda edge: -edge[2])

    @classmethod
    def concatenate(cls, parts: Sequence[Composition]) -> Composition:
        """Join what was measured on several batches.

        Raises:
            VlmHeadsError: none, or parts of different models or heads.
        """
        if not parts:
            raise VlmHeadsError("no composition", "at least one to join")
        first = parts[0]
        for other in parts[1:]:
            first.geometry.require(other.geometry, "a composition")
            if other.heads != first.heads:
                raise VlmHeadsError(f"heads {list(other.heads)}", f"{list(first.heads)}")
        strength = torch.cat([part.strength for part in parts])
        return cls(first.heads, strength, first.geometry)


@torch.no_grad()
def composition(
    model: Any, inputs: Mapping[str, Any], heads: Sequence[Head], *, rows: int = 64
) -> Composition:
    """Measure how much of what some heads put out depends on what others of them wrote.

    C[s, r] = mean over rows of ‖o_r - o_r'‖ / ‖o_r‖, with o_r' the output of head r where the state
    that enters its layer lacks what head s added to the residual stream, at every position:
    queries, keys and values all read without it. Only the direct path counts; what other heads and
    MLPs made of its output in between stays.

    Source: composition of heads, Elhage et al., "A Mathematical Framework for Transformer
    Circuits", 2021, and inter-layer communication, Merullo et al., "Talking Heads", NeurIPS 2024,
    both on weights. Deviations: measured on prompts in place of weights, so that norms and
    attention count, and queries, keys and values together. Of a decoder with a norm behind the
    output projection, as Gemma has, the norm is not applied to what s added.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        heads: (layer, head) of those to look at, from at least two layers.
        rows: rows of a batch of the decoder, at least N.

    Raises:
        VlmHeadsError: heads that the model does not have or of one layer alone, no image in any
            prompt, or a model with plugins attached.
    """
    given = {name: value for name, value in inputs.items() if name != "labels"}
    anatomy = examine(model)
    require_images(anatomy, given)
    chosen = tuple(sorted(set(heads)))
    anatomy.geometry.check_heads(chosen, "composition")
    layers = sorted({layer for layer, _ in chosen})
    if len(layers) < 2:
        raise VlmHeadsError(f"heads {list(chosen)}", "heads of at least two layers")
    replay = Replay.of(model, given)
    plain = replay.heads()
    chosen_rows = _rows(anatomy, given)
    strength = torch.zeros(replay.rows, len(chosen), len(chosen))
    for reading in layers[1:]:
        readers = [index for index, (layer, _) in enumerate(chosen) if layer == reading]
        writers = [index for index, (layer, _) in enumerate(chosen) if layer < reading]
        size = max(1, rows // replay.rows)
        for start in range(0, len(writers), size):
            some = writers[start : start + size]
            added = [_added(anatomy, plain, chosen[index]) for index in some]
            without = _without(replay, reading, torch.cat(added))
            before = plain[reading]
            for place, writer in enumerate(some):
                after = without[place * replay.rows : (place + 1) * replay.rows]
                change = _change(before, after, chosen_rows)
                for reader in readers:
                    strength[:, writer, reader] = change[:, chosen[reader][1]]
    return Composition(chosen, strength, anatomy.geometry)


def _rows(anatomy: Anatomy, given: dict[str, Any]) -> Tensor:
    """[N, S] True for text after the image; the last row of a prompt that ends in its image."""
    visual = read_prompt(anatomy, given).visual
    behind = visual.flip(1).cumsum(dim=1).flip(1) == 0
    behind[:, -1] = True
    return behind & visual.any(dim=1, keepdim=True)


def _added(anatomy: Anatomy, plain: Mapping[int, Tensor], head: Head) -> Tensor:
    """Return what a head adds to the residual stream, [N, S, E]."""
    layer, index = head
    projection = anatomy.projections[layer]
    assert projection is not None
    alone = torch.zeros_like(plain[layer])
    alone[:, :, index] = plain[layer][:, :, index]
    flat = alone.flatten(2)
    found: Tensor = projection.forward(flat) - projection.forward(torch.zeros_like(flat[:1, :1]))
    return found


def _without(replay: Replay, layer: int, added: Tensor) -> Tensor:
    """Head outputs [K * N, S, H, D] of a layer that reads its states less what was added."""
    anatomy, found = replay.anatomy, list[Tensor]()
    projection = anatomy.projections[layer]
    assert projection is not None
    with ExitStack() as stack:
        hook = partial(_subtract, added)
        stack.enter_context(anatomy.layers[layer].register_forward_pre_hook(hook, with_kwargs=True))
        stack.enter_context(
            projection.register_forward_pre_hook(lambda _, args: found.append(args[0]))
        )
        replay.run(len(added) // replay.rows)
    return anatomy.split_heads(layer, found[0])


def _subtract(
    added: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take what was added out of the states that a layer is given."""
    states = args[0] if args else kwargs["hidden_states"]
    if states.shape != added.shape:
        raise VlmHeadsError(
            f"a {type(module).__name__} that reads states {list(states.shape)}",
            f"one residual stream, {list(added.shape)}",
        )
    less = states - added.to(states)
    return ((less, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": less})


def _change(before: Tensor, after: Tensor, rows: Tensor) -> Tensor:
    """Mean relative change [N, H] of head outputs [N, S, H, D] over some rows [N, S]."""
    one, other = at_least_float32(before), at_least_float32(after)
    tiny = torch.finfo(one.dtype).tiny
    relative = (one - other).norm(dim=-1) / one.norm(dim=-1).clamp(min=tiny)
    some = rows[:, :, None].to(relative.device)
    total = torch.where(some, relative, 0).sum(dim=1)
    return (total / some.sum(dim=1).clamp(min=1)).cpu().float()
