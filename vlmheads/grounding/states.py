"""Hidden states of a forward pass, read level by level: what lens scores need is kept, no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmheads.grounding.lens import Lens, lens_best, lens_columns
from vlmheads.grounding.readings import Column, Needs, Place, State
from vlmheads.model.anatomy import Anatomy


@dataclass(frozen=True, eq=False)
class RowStates:
    """What is kept of the states of one row, see `Reading`.

    Args:
        tokens: [T] its answer.
        places: columns of the prompt by place.
    """

    tokens: Tensor
    places: Mapping[Place, Tensor]
    states: dict[State, Tensor] = field(default_factory=dict)
    columns: dict[Column, Tensor] = field(default_factory=dict)
    best: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def kept_states(
    anatomy: Anatomy, given: Mapping[str, Any], count: int, needs: Needs
) -> Iterator[Sequence[RowStates]]:
    """Keep what is needed of the states of the one forward pass inside the `with`.

    Level 0 is what the first layer is given, level l what the next one is, and the last one what
    the decoder returns, after its norm.

    Args:
        anatomy: the parts of the model.
        given: prompts with their answers; rows are padded on the left.
        count: T, the tokens of each answer.
        needs: what is kept.
    """
    rows = [_row(anatomy, given, index, count) for index in range(len(given["input_ids"]))]
    depth = len(anatomy.layers)
    wanted = range(depth + 1) if needs.best else sorted(needs.levels)
    lens = _lens(anatomy) if needs.columns or needs.best else None
    done = set[int]()

    def see(level: int, states: Tensor) -> None:
        if level not in done:  # a decoder may run a layer again, without its cache
            done.add(level)
            for row, part in zip(rows, states, strict=True):
                _keep(lens, row, level, part, needs)

    def before(level: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        see(level, anatomy.flat_states(args[0] if args else kwargs["hidden_states"]))

    def after(output: Any) -> None:
        see(depth, output[0])

    with ExitStack() as stack:
        for level in wanted:
            if level == depth:
                hook = anatomy.decoder.register_forward_hook(lambda _, args, out: after(out))
            else:
                hook = anatomy.layers[level].register_forward_pre_hook(
                    lambda _, args, kwargs, level=level: before(level, args, kwargs),
                    with_kwargs=True,
                )
            stack.callback(hook.remove)
        yield rows


def _row(anatomy: Anatomy, given: Mapping[str, Any], index: int, count: int) -> RowStates:
    ids: Tensor = given["input_ids"][index]
    column = torch.arange(len(ids), device=ids.device)
    image = anatomy.is_visual(ids).nonzero()[:, 0]
    last = len(ids) - count - 1
    real = torch.ones_like(ids) if (mask := given.get("attention_mask")) is None else mask[index]
    behind = (column > (image[-1] if len(image) else last)) & (column <= last) & real.bool()
    places: dict[Place, Tensor] = {
        "image": image,
        "instruction": behind.nonzero()[:, 0],
        "last": column[last],
        "token": column[last:-1],
    }
    return RowStates(ids[-count:], places)


def _lens(anatomy: Anatomy) -> Lens:
    config: Any = anatomy.model.config
    return Lens(partial(anatomy.unembed, norm=False), config.get_text_config().vocab_size)


def _keep(lens: Lens | None, row: RowStates, level: int, states: Tensor, needs: Needs) -> None:
    """Keep what is needed of the states [S, E] of a row at one level."""
    if not len(row.places["image"]):
        return
    for at, place in needs.states:
        if at == level:
            row.states[at, place] = states[row.places[place]].clone()
    if lens is None:
        return
    for at, place, scale in needs.columns:
        if at == level:
            part = states[row.places[place]]
            row.columns[at, place, scale] = lens_columns(lens, part, row.tokens, scale)
    for keep in needs.best:
        best = lens_best(lens, states[row.places["image"]], row.tokens, keep)
        row.best[keep] = best.maximum(row.best[keep]) if keep in row.best else best
