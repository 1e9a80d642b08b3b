"""A short measurement on validation scenes while training runs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from vlmheads_testbed.measure import (
    answers,
    head_divergence,
    named,
    questions,
    specialisation,
)
from vlmheads_testbed.scenes import scene

PROMPT = "Describe the image in detail."


@dataclass(frozen=True)
class Probe:
    """Shares on validation and counterfactual scenes, by the scenes' own words.

    ``words``: mean length; ``ended``: captions that end by themselves; ``specialisation``: median
    over layers of the largest over the median VHD of a layer.
    """

    recall: float
    chair_i: float
    words: float
    ended: float
    counterfactual_recall: float
    counterfactual_chair_i: float
    yes_no: float
    yes: float
    yes_no_likely: float
    specialisation: float
    caption: str

    def to_dict(self) -> dict[str, Any]:
        """Return all figures by name."""
        return asdict(self)


def probe(model: Any, processor: Any, number: int, seed: int = 0, *, mixed: bool = False) -> Probe:
    """Caption ``number`` scenes of two splits and ask two questions about each of the first."""
    scenes = [scene("val", seed, index) for index in range(number)]
    others = [scene("counterfactual", seed, index) for index in range(number // 2)]
    precision = torch.autocast(model.device.type, torch.bfloat16) if mixed else nullcontext()
    with precision, torch.compiler.set_stance("force_eager"):
        captions = answers(model, processor, scenes + others, [PROMPT] * (number + number // 2))
        asked = questions(scenes, "val", seed)
        replies = answers(model, processor, [a[0] for a in asked], [a[1] for a in asked])
        divergence = head_divergence(model, processor, "val", min(8, number), seed, PROMPT)
    yes = np.asarray([reply.startswith("Yes") for reply in replies])
    no = np.asarray([reply.startswith("No") for reply in replies])
    truth = np.asarray([answer for _, _, answer in asked])
    right = np.where(truth, yes, no)
    recall, chair_i = _found(captions[:number], scenes)
    far_recall, far_chair_i = _found(captions[number:], others)
    return Probe(
        recall=recall,
        chair_i=chair_i,
        words=float(np.mean([len(text.split()) for text in captions[:number]])),
        ended=float(np.mean([text.rstrip().endswith(".") for text in captions[:number]])),
        counterfactual_recall=far_recall,
        counterfactual_chair_i=far_chair_i,
        yes_no=float(right.mean()),
        yes=float(yes.mean()),
        yes_no_likely=float(right[3::4].mean()),
        specialisation=float(np.median(specialisation(divergence.float().cpu()))),
        caption=captions[0],
    )


def _found(captions: list[str], scenes: list[Any]) -> tuple[float, float]:
    """Return recall and CHAIR_I."""
    said = [named(caption) for caption in captions]
    wrong = sum(
        name not in one.names for names, one in zip(said, scenes, strict=True) for name in names
    )
    hits = sum(len(one.names & set(names)) for names, one in zip(said, scenes, strict=True))
    total = sum(map(len, said))
    return hits / max(1, sum(len(one.names) for one in scenes)), wrong / max(1, total)
