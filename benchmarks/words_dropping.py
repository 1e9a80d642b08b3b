"""What dropping flagged words does to CHAIR, against the captions as they were.

benchmarks/words.py calls this on the captions that it measures on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from vlmheads_eval import records as files
from vlmheads_eval.calibrate.measured import MeasuredCaptions
from vlmheads_eval.chair.measures import count, measure
from vlmheads_eval.chair.score import frontier_distance, score_captions, truncated_counts
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.statistics import Array, differ, resample
from words_report import CHAIR

from vlmheads import Caption
from vlmheads.grounding.rewrite import drop_clauses
from vlmheads.grounding.scores import Scorer

DRAWS = 1000
READING = "fixed"


@dataclass(frozen=True, eq=False)
class Said(MeasuredCaptions):
    """Captions of one split with their words, by image."""

    def counts(self, texts: Sequence[str]) -> Array:
        """CHAIR's counts of other texts for the same images: [images, columns]."""
        scored = score_captions(self._files(texts), self.truth, get_variant(READING))
        return np.array([count(caption, score) for caption, _, score in scored])

    def cuts(self) -> Array:
        """CHAIR's counts of the captions cut after 1, 2, ... sentences: [images, cuts, columns]."""
        texts = [caption.text for caption in self.captions]
        scored = score_captions(self._files(texts), self.truth, get_variant(READING))
        return np.array(
            [truncated_counts(words, score, get_variant(READING)) for _, words, score in scored]
        )

    def _files(self, texts: Sequence[str]) -> list[files.Caption]:
        return [files.Caption(key, text) for key, text in zip(self.keys, texts, strict=True)]


def scored(said: Said, scorer: Scorer, geometry: Any) -> list[Caption]:
    """The captions with the scores of another scorer."""
    k = scorer.heads(geometry)
    captions = []
    for caption, found in zip(said.captions, said.divergences, strict=True):
        words = []
        for word, divergence in zip(caption.words, found, strict=True):
            again = replace(word, divergence=float(divergence[k - 1]))
            words.append(replace(again, score=scorer(again.measures)))
        captions.append(replace(caption, words=tuple(words)))
    return captions


def dropped(said: Said, scorer: Scorer, geometry: Any, seed: int | None = None) -> dict[str, Any]:
    """CHAIR of the rewritten captions, against the captions as they were.

    With a seed the scores are first shuffled among all object words: the control, which
    drops as many words without a reason.
    """
    captions = scored(said, scorer, geometry)
    if seed is not None:
        captions = shuffled(captions, seed)
    found = [drop_clauses(one.text, one.words, scorer.threshold) for one in captions]
    before = said.counts([caption.text for caption in said.captions])
    after = said.counts([rewrite.text for rewrite in found])
    cuts = said.cuts()
    drawn = resample({"before": before, "after": after, "cuts": cuts}, DRAWS)
    sums = before.sum(axis=0), after.sum(axis=0)
    result: dict[str, Any] = {
        "changed": sum(
            rewrite.text != one.text for rewrite, one in zip(found, said.captions, strict=True)
        ),
        "unsupported": sum(rewrite.unsupported for rewrite in found),
        "images": len(found),
    }
    for name in CHAIR:
        result[name] = {
            "before": float(measure(sums[0], name)),
            "after": float(measure(sums[1], name)),
            "difference": differ(
                partial(measure, name=name),
                sums,
                (drawn["before"], drawn["after"]),
            ).to_dict(),
        }
    for name in ("CHAIRi", "CHAIRs"):
        result[name]["less frontier"] = frontier_distance(
            name, (cuts.sum(axis=0), drawn["cuts"]), (sums[1], drawn["after"])
        ).to_dict()
    return result


def shuffled(captions: Sequence[Caption], seed: int) -> list[Caption]:
    """The captions with the scores of their object words shuffled."""
    scores = [word.score for caption in captions for word in caption.words if word.object]
    dealt = iter(np.random.default_rng(seed).permutation(scores).tolist())
    return [
        replace(
            caption,
            words=tuple(
                replace(word, score=next(dealt)) if word.object else word for word in caption.words
            ),
        )
        for caption in captions
    ]
