"""Short prompts about the objects of images, a few at a time."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmheads.detect.replay import teacher_forced
from vlmheads.model.anatomy import examine
from vlmheads.model.inputs import model_inputs
from vlmheads.runtime.attachment import refuse_attached
from vlmheads.runtime.passes import positions_kept


@dataclass(frozen=True)
class Row:
    """A prompt about an object of an image, and the answer that is forced on the model if any.

    Args:
        image: index of the image.
        name: the object.
        prompt: what is asked.
        answer: token ids of an answer.
    """

    image: int
    name: str
    prompt: str
    answer: tuple[int, ...] = ()


@torch.no_grad()
def last_logits(
    model: Any, processor: Any, images: Sequence[Any], rows: Sequence[Row], keep: int, size: int
) -> Iterator[tuple[Sequence[Row], Tensor]]:
    """Yield a few rows and the logits [n, keep, V] at the end of their prompts and answers.

    Each row is a whole prompt of its own, which holds for every family; answers of a batch are
    padded on the right with their own last token, and `keep` counts from the padded end.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        processor: its processor.
        images: Pillow images.
        rows: what is asked about them.
        keep: positions.
        size: rows a forward pass.
    """
    anatomy = examine(model)
    refuse_attached(anatomy)
    with positions_kept(anatomy.model):
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            given: Any = model_inputs(
                model,
                processor,
                [images[row.image] for row in batch],
                [row.prompt for row in batch],
            )
            longest = max(len(row.answer) for row in batch)
            if longest:
                answers = torch.tensor(
                    [[*row.answer, *row.answer[-1:] * (longest - len(row.answer))] for row in batch]
                )
                given = teacher_forced(anatomy, given, answers)
            given = dict(given)
            if "logits_to_keep" in inspect.signature(anatomy.model.forward).parameters:
                given["logits_to_keep"] = keep
            logits = anatomy.model(**given, use_cache=False, return_dict=True).logits
            yield batch, logits[:, -keep:].cpu()
