"""Captions of images with known objects, with the scores of their words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.statistics import Array
from vlmheads_eval.word_scores import WordTable

if TYPE_CHECKING:
    from vlmheads.caption import Caption
    from vlmheads_eval.data import Sample


@dataclass(frozen=True, eq=False)
class MeasuredCaptions:
    """Captions with their words, by image.

    Args:
        keys: of the images.
        captions: one an image.
        divergences: of each caption's words, [H]: T-VHD for every k.
        truth: the objects in the images.
    """

    keys: list[str]
    captions: list[Caption]
    divergences: list[list[Array]]
    truth: GroundTruth

    def table(self) -> WordTable:
        """Return the object words, each true or hallucinated.

        Raises:
            VlmHeadsError: captions that name no object.
        """
        rows = [
            (image, word, divergence, word.object in self.truth.objects[key])
            for image, (key, caption, found) in enumerate(
                zip(self.keys, self.captions, self.divergences, strict=True)
            )
            for word, divergence in zip(caption.words, found, strict=True)
            if word.object
        ]
        if not rows:
            raise VlmHeadsError(f"{len(self.keys)} captions that name no object", "some that do")
        measures = [word.measures for _, word, *_ in rows]
        return WordTable(
            np.array([image for image, *_ in rows]),
            np.array([true for *_, true in rows]),
            {name: np.array([one[name] for one in measures]) for name in measures[0]},
            np.stack([divergence for *_, divergence, _ in rows]),
            len(self.keys),
        )


def measure_captions(
    captioner: Any,
    samples: Sequence[Sample],
    truth: GroundTruth,
    *,
    scores: Iterable[str],
    ending: str | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 128,
    progress: Callable[[int], None] = lambda done: None,
) -> MeasuredCaptions:
    """Caption images under the captioner's plugins, and measure the words on the plain model.

    Args:
        captioner: the model with its plugins.
        samples: the images, with prompts.
        truth: their objects.
        scores: which scores beside those of every grounding, `p_yes` and `lpfv` among them.
        ending: of the questions of `p_yes`.
        batch_size: images a step.
        max_new_tokens: token limit of captions.
        progress: called after each step with how many captions there are.
    """
    import torch

    from vlmheads.grounding.catalogue import ASKED
    from vlmheads.grounding.scores import Scorer
    from vlmheads.images import load_image
    from vlmheads.model.anatomy import examine
    from vlmheads_eval.records import image_key

    wanted = tuple(dict.fromkeys(scores))
    heads = examine(captioner.model).geometry.heads
    captions: list[Caption] = []
    divergences: list[list[Array]] = []
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        images = [load_image(sample.image) for sample in part]
        inputs = captioner.prepare(images, [sample.prompt for sample in part])
        said = captioner.generate(inputs, max_new_tokens=max_new_tokens)
        measured, found = captioner.ground(
            images,
            said,
            [sample.prompt for sample in part],
            scorer=Scorer.plain(),
            scores=[name for name in wanted if name not in ASKED],
        )
        every = torch.stack([found.token_divergence(k) for k in range(1, heads + 1)], dim=-1)
        divergences += [
            [every[row, word.first : word.last].mean(dim=0).numpy() for word in caption.words]
            for row, caption in enumerate(measured)
        ]
        captions += _asked(captioner, images, measured, wanted, ending)
        progress(len(captions))
    keys = [image_key(sample.record["image_id"]) for sample in samples]
    return MeasuredCaptions(keys, captions, divergences, truth)


def _asked(
    captioner: Any,
    images: Sequence[Any],
    captions: Sequence[Caption],
    scores: Sequence[str],
    ending: str | None,
) -> list[Caption]:
    """Add the scores of objects that the model is asked for; NaN for other words."""
    from vlmheads.grounding.lpfv import lpfv
    from vlmheads.grounding.questions import ENDING, p_yes

    model, processor = captioner.model, captioner.processor
    names = [[word.object for word in one.words if word.object] for one in captions]
    answers: dict[str, list[dict[str, float]]] = {}
    if "p_yes" in scores:
        end = ENDING if ending is None else ending
        answers["p_yes"] = p_yes(model, processor, images, names, ending=end)
    if "lpfv" in scores:
        answers["lpfv"] = lpfv(model, processor, images, names)

    def further(row: int, name: str | None) -> dict[str, float]:
        return {score: found[row].get(name or "", np.nan) for score, found in answers.items()}

    return [
        replace(
            caption,
            words=tuple(
                replace(word, scores={**word.scores, **further(row, word.object)})
                for word in caption.words
            ),
        )
        for row, caption in enumerate(captions)
    ]
