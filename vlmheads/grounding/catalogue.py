"""The scores of words by name, and any set of them in as few forward passes as possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlmheads.detect.replay import after_end, require_images, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.attending import PAS, SVAR, ImageAttention
from vlmheads.grounding.confidence import InternalConfidence
from vlmheads.grounding.divergence import Divergence
from vlmheads.grounding.glsim import GLSim
from vlmheads.grounding.inslen import InsLen
from vlmheads.grounding.lpfv import lpfv
from vlmheads.grounding.passes import Passes, run_passes
from vlmheads.grounding.probability import (
    Entropy,
    ImageGain,
    LogProbability,
    MeanLogProbability,
)
from vlmheads.grounding.questions import p_yes
from vlmheads.grounding.readings import Reading, TokenScore, all_needs
from vlmheads.grounding.words import Finder, find_objects
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.model.geometry import Geometry
from vlmheads.runtime.attachment import refuse_attached

SCORES: Mapping[str, type[TokenScore]] = {
    score.name: score
    for score in (
        LogProbability,
        MeanLogProbability,
        Entropy,
        ImageGain,
        Divergence,
        ImageAttention,
        SVAR,
        PAS,
        InternalConfidence,
        GLSim,
        InsLen,
    )
}


# Scores of objects that the model is asked for, in prompts of their own.
ASKED = ("p_yes", "lpfv")


def of_word(name: str, values: Tensor) -> float:
    """Return a word's score from those of its tokens [n], by the rule of the score."""
    rule = "sum" if name == "log_probability_without" else SCORES[name].of_word
    if rule == "first":
        return float(values[0])
    if rule == "max":
        return float(values.max())
    return float(values.sum() if rule == "sum" else values.mean())


def ask_about(
    model: Any,
    processor: Any,
    images: Sequence[Any],
    texts: Sequence[str],
    scores: Iterable[str],
    find: Finder = find_objects,
) -> list[dict[str, dict[str, float]]]:
    """Ask a model about the objects that texts on images name.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        processor: its processor.
        images: N Pillow images.
        texts: N texts.
        scores: those of `ASKED` among them are asked for.
        find: finds the objects of a text.

    Returns:
        For each text, name of the score -> object -> its value.
    """
    found: list[dict[str, dict[str, float]]] = [{} for _ in texts]
    wanted = set(scores) & set(ASKED)
    if not wanted:
        return found
    names = [[name for _, _, name in find(text)] for text in texts]
    if "p_yes" in wanted:
        for one, values in zip(found, p_yes(model, processor, images, names), strict=True):
            one["p_yes"] = values
    if "lpfv" in wanted:
        for one, values in zip(found, lpfv(model, processor, images, names), strict=True):
            one["lpfv"] = values
    return found


def chosen_scores(scores: Iterable[str | TokenScore]) -> tuple[TokenScore, ...]:
    """Return scores by name, or with options of their own, each once.

    Raises:
        VlmHeadsError: a name that there is not, or one that is there twice.
    """
    found: dict[str, TokenScore] = {}
    for one in scores:
        if isinstance(one, str):
            if one not in SCORES:
                raise VlmHeadsError(f"word score {one!r}", f"one of {', '.join(SCORES)}")
            one = SCORES[one]()
        if one.name in found:
            raise VlmHeadsError(f"the word score {one.name} twice", "each once")
        found[one.name] = one
    return tuple(found.values())


@torch.no_grad()
def token_scores(
    model: Any, inputs: Mapping[str, Any], targets: Tensor, scores: Iterable[str | TokenScore]
) -> dict[str, Tensor]:
    """Score the tokens of given answers, in one pass, or two where a score compares with no image.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right with the end token.
        scores: names of `SCORES`, or scores with options, such as `GLSim(weight=0.5)`.

    Returns:
        Name -> [N, T], float32 on the CPU; NaN after a row's first end token, and in prompts
        without an image but for the probabilities.

    Raises:
        VlmHeadsError: what `grounding` refuses, no score, an unknown one, or one whose layers the
            model does not have or whose states its head does not take.
    """
    chosen = chosen_scores(scores)
    if not chosen:
        raise VlmHeadsError("no word score", f"some of {', '.join(SCORES)}")
    anatomy, given, targets = checked_answers(model, inputs, targets)
    needs = all_needs(chosen, anatomy.geometry)
    passes = run_passes(anatomy, given, targets, needs)
    return scored_tokens(anatomy, given, targets, passes, chosen)


def checked_answers(
    model: Any, inputs: Mapping[str, Any], targets: Tensor
) -> tuple[Anatomy, dict[str, Any], Tensor]:
    """Return a model's parts, prompts with answers appended, and the answers on its device.

    Raises:
        VlmHeadsError: a model that cannot be attached to or has plugins attached, targets of
            another shape or with image tokens in them, or no image in any prompt.
    """
    anatomy = examine(model)
    refuse_attached(anatomy)
    given = teacher_forced(anatomy, inputs, targets)
    require_images(anatomy, given)
    targets = given["input_ids"][:, -targets.shape[1] :]
    if bool(anatomy.is_visual(targets).any()):
        raise VlmHeadsError("targets that hold image tokens", "the tokens of a text")
    return anatomy, given, targets


def scored_tokens(
    anatomy: Anatomy,
    given: Mapping[str, Any],
    targets: Tensor,
    passes: Passes,
    scores: Sequence[TokenScore],
) -> dict[str, Tensor]:
    """Return the scores [N, T] of passes that kept what these scores need."""
    ended = after_end(targets, anatomy.generator.generation_config.eos_token_id)
    sees = anatomy.is_visual(given["input_ids"]).any(dim=1).tolist()
    found = {score.name: torch.full(targets.shape, torch.nan) for score in scores}
    for row, has_image in enumerate(sees):
        reading = _reading(passes, row, anatomy.geometry)
        for score in scores:
            if has_image or isinstance(score, (LogProbability, Entropy)):
                found[score.name][row] = score.of_tokens(reading, anatomy.geometry).cpu().float()
    return {name: values.masked_fill(ended, torch.nan) for name, values in found.items()}


def _reading(passes: Passes, row: int, geometry: Geometry) -> Reading:
    """Return what passes kept of one row."""
    states = passes.states[row]
    image = {layer: shares.image[row] for layer, shares in passes.attention.items()}
    answer = {layer: shares.answer[row] for layer, shares in passes.attention.items()}
    changed = {layer: part[row] for layer, part in passes.divergence.items()}
    return Reading(
        passes.log_probability[row],
        passes.entropy[row],
        None if passes.without is None else passes.without[row],
        _by_layer(changed, geometry, 0.0),
        _by_layer(image, geometry, torch.nan),
        _by_layer(answer, geometry, torch.nan),
        states.states,
        states.columns,
        states.best,
    )


def _by_layer(parts: Mapping[int, Tensor], geometry: Geometry, empty: float) -> Tensor | None:
    """Lay parts [T, H] of each layer out as [T, L, H], `empty` where there is no head."""
    if not parts:
        return None
    count = len(next(iter(parts.values())))
    values = torch.full((count, geometry.layers, geometry.heads), empty)
    for layer, part in parts.items():
        values[:, layer, : part.shape[1]] = part.float()
    return values
