"""Directions from hallucinated to truthful captions, in the hidden states of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.learned import Learned
from vlmheads.model.anatomy import examine
from vlmheads.precision import at_least_float32
from vlmheads.runtime.cache import filled_cache

Inputs = Mapping[str, Any]


@torch.no_grad()
def measure_directions(
    model: Any,
    pairs: Iterable[tuple[Inputs, Inputs]],
    provenance: Mapping[str, Any] | None = None,
) -> Learned:
    """Measure VTI's directions from hallucinated to truthful captions of the same images.

    For each pair the difference of the hidden states at the last token is taken in all layers at
    once; the direction is the mean difference plus the first principal component, signed so that
    it points along the mean, as `first_component` does. As in the release, the state of the last
    layer is the one after the last norm.

    Args:
        model: a transformers model for image-text-to-text generation.
        pairs: arguments of the model's forward for one prompt with the truthful and one with the
            hallucinated caption after it, such as a processor makes; not padded on the right.
        provenance: what is to be remembered with the directions.

    Returns:
        The directions [L, E], one per layer; only where they point to counts.

    Raises:
        VlmHeadsError: fewer than two pairs, which have no principal component.
    """
    geometry = examine(model).geometry
    differences = []
    for truthful, hallucinated in pairs:
        one, two = (_last_states(model, inputs) for inputs in (truthful, hallucinated))
        differences.append(one - two)
    if len(differences) < 2:
        raise VlmHeadsError(f"{len(differences)} pairs of captions", "two or more")
    data = torch.stack(differences)
    direction = data.mean(dim=0) + first_component(data.flatten(1)).view_as(data[0])
    about = {"pairs": len(differences)} | dict(provenance or {})
    return Learned("vti", {"directions": direction}, geometry, about)


def first_component(samples: Tensor) -> Tensor:
    """Return the first principal component [E], of length 1, of samples [N, E].

    An eigenvector has no sign of its own. It gets the one that points along the mean of the
    samples; where it is orthogonal to the mean to within rounding, that of the sample that it
    weighs most.
    """
    mean = samples.mean(dim=0)
    weights, _, components = torch.linalg.svd(samples - mean, full_matrices=False)
    found: Tensor = components[0]
    along = found @ mean
    if float(along.abs()) <= 1e-6 * float(mean.norm()):
        along = weights[weights[:, 0].abs().argmax(), 0]
    return -found if float(along) < 0 else found


def null_basis(differences: Tensor, rank: int) -> Tensor:
    """Return Nullu's basis [L, E, rank]: the largest directions of differences [N, L, E].

    The mean is not taken out first.

    Raises:
        VlmHeadsError: fewer pairs than directions.
    """
    if len(differences) < rank:
        raise VlmHeadsError(f"{len(differences)} pairs of captions", f"{rank} or more")
    _, _, right = torch.linalg.svd(differences.transpose(0, 1), full_matrices=False)
    basis: Tensor = right[:, :rank].transpose(1, 2)
    return basis


def steering_vectors(prior: Tensor, truth: Tensor, form: str) -> Tensor:
    """Return Revis's vectors [L, E] of samples [N, L, E].

    In each layer the truth samples lose what they have along the prior, and are summed up to one
    vector: their mean ("paper"), or their first principal component times their mean length
    ("release"), and the prior likewise.
    """
    found = []
    for layer in range(prior.shape[1]):
        before, samples = prior[:, layer], truth[:, layer]
        away = before.mean(dim=0) if form == "paper" else first_component(before)
        away = torch.nn.functional.normalize(away, dim=0)
        samples = samples - (samples @ away)[:, None] * away
        if form == "paper":
            found.append(samples.mean(dim=0))
        else:
            found.append(first_component(samples) * samples.norm(dim=-1).mean())
    return torch.stack(found)


@torch.no_grad()
def layer_outputs(model: Any, inputs: Inputs, *, mean: bool = False) -> tuple[Tensor, Tensor]:
    """Return the output of every layer for one prompt, [L, E] in float32, and the logits [V].

    Args:
        model: without plugins attached.
        inputs: arguments of its forward, one row without padding.
        mean: the mean over all positions, in place of the last one.
    """
    anatomy, found = examine(model), list[Tensor]()
    with ExitStack() as stack:
        for layer in anatomy.layers:

            def keep(_: Any, args: Any, output: Any) -> None:
                states = at_least_float32(anatomy.flat_states(output)[0])
                found.append((states.mean(dim=0) if mean else states[-1]).cpu())

            stack.callback(layer.register_forward_hook(keep).remove)
        logits = anatomy.generator(**inputs, use_cache=False, return_dict=True).logits
    return torch.stack(found), at_least_float32(logits[0, -1]).cpu()


@torch.no_grad()
def layer_cache(model: Any, inputs: Inputs, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return cached keys [L, Hkv, D] and values [L, Hkv, Dv], mean over some positions.

    Args:
        model: without plugins attached.
        inputs: arguments of its forward, one row without padding.
        place: [S] True for those positions.

    Raises:
        VlmHeadsError: layers that cache something else than keys and values of all positions, as
            sliding windows do, or of different shapes.
    """
    output = examine(model).generator(**inputs, use_cache=True, return_dict=True)
    parts = []
    for layer in filled_cache(output).layers:
        found = [one for one in map(layer.__dict__.get, ("keys", "values")) if one is not None]
        if len(found) < 2 or any(one.shape[2] != len(place) for one in found):
            raise VlmHeadsError(
                f"a layer whose {type(layer).__name__} does not hold all {len(place)} positions",
                "full attention in every layer",
            )
        parts.append(
            [at_least_float32(one[0][:, place.to(one.device)]).mean(dim=1) for one in found]
        )
    if len({(one.shape, two.shape) for one, two in parts}) > 1:
        raise VlmHeadsError("layers that cache keys of different shapes", "the same in all layers")
    keys, values = (torch.stack([one[kind].cpu() for one in parts]) for kind in (0, 1))
    return keys, values


def cache_direction(differences: Tensor) -> Tensor:
    """Return PTI's directions [L, H, D] of differences [N, L, H, D].

    In each layer the mean over the samples plus the first principal component, heads side by side.
    """
    return torch.stack(
        [
            layer.mean(dim=0) + first_component(layer.flatten(1)).view_as(layer[0])
            for layer in differences.unbind(dim=1)
        ]
    )


def _last_states(model: Any, inputs: Inputs) -> Tensor:
    """Return the last token's hidden states [L, E], without those of the embeddings."""
    output = model(**inputs, output_hidden_states=True, use_cache=False, return_dict=True)
    last = torch.cat([state[:, -1] for state in output.hidden_states[1:]])
    return at_least_float32(last).cpu()
