"""Path patching: what a head writes straight to the answer because of what the picture shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmheads.detect.objectives import Trial
from vlmheads.detect.replay import Replay, one_by_one
from vlmheads.model.vision import image_inputs, pixel_names


@torch.no_grad()
def path_patching(trial: Trial, rows: int = 64) -> Tensor:
    """Measure what the objective loses by each head's direct path, with its sign turned.

    The model reads the answers twice: with their pictures, and with pictures of one colour, whose
    pixels are all but 0 after the processor's normalisation. Then one head after the other is given
    its output of the second run, all other heads being kept at those of the first, so that what
    changes reaches the answer through the residual stream and the MLPs alone, and through no other
    head. The effect is the objective after that less the plain one: above 0 where the head's
    direct path works against the objective.

    Source: path patching with the logits as receiver, Wang et al., ICLR 2023 (circuits of indirect
    object identification), and Goldowsky-Dill et al., arXiv 2304.05969, as known to us without
    their code. Deviations: the corrupted run has another picture in place of another sentence, so
    that all positions stay.

    Memory: head outputs of both runs, twice the size of all layers' states.

    Args:
        trial: a batch of answers.
        rows: rows of a batch, at least N.

    Returns:
        [N, L, H] effects.

    Raises:
        VlmHeadsError: images that came without pixels.
    """
    replay, count = trial.replay, trial.replay.rows
    geometry = replay.anatomy.geometry
    clean, other = replay.heads(), Replay.of(replay.anatomy.model, _one_colour(trial)).heads()
    every, _ = one_by_one(geometry, 0.0)
    plain = trial.plain()
    effects = torch.zeros(count, geometry.layers, geometry.heads, dtype=plain.dtype)
    size = max(1, rows // count)
    for start in range(0, len(every), size):
        some = every[start : start + size]
        states = replay.states_under(partial(_patched, some, count, clean, other), len(some))
        found = replay.read(states, trial.targets).reshape(len(some), *trial.targets.shape)
        for change, (layer, head) in zip(trial.judge(found) - plain, some, strict=True):
            effects[:, layer, head] = change.cpu()
    return effects


def _one_colour(trial: Trial) -> dict[str, Any]:
    """Return the inputs with pictures whose pixels are all but 0.

    Tiles of exact zeros are padding to some models, and stay so.
    """
    given = dict(trial.given)
    pixels = pixel_names(image_inputs(trial.replay.anatomy, given))
    return given | {name: given[name].ne(0).to(given[name]) * 1e-4 for name in pixels}


def _patched(
    some: list[tuple[int, int]],
    rows: int,
    clean: Mapping[int, Tensor],
    other: Mapping[int, Tensor],
    layer: int,
    heads: Tensor,
) -> Tensor:
    """Give every copy of the batch the clean heads of a layer, but for the copy's own head."""
    made = clean[layer].repeat(len(some), 1, 1, 1)
    for copy, (at, head) in enumerate(some):
        if at == layer and head < made.shape[2]:
            made[copy * rows : (copy + 1) * rows, :, head] = other[layer][:, :, head]
    return made.to(heads)
