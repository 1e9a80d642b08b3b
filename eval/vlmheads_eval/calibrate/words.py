"""A scorer of words for a model: fitted, given a threshold, and verified on images each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.guarantee import guarantee, verified
from vlmheads.grounding.risk import (
    ImageScores,
    Loss,
    Rule,
    Threshold,
    Verified,
    choose_threshold,
    images_needed,
    verify_threshold,
)
from vlmheads.grounding.scores import Scorer
from vlmheads.model.geometry import Geometry
from vlmheads_eval.calibrate.scorer import FEATURES, choose_features, fit_scorer, with_evidence
from vlmheads_eval.word_scores import WordTable

# What the scorer may weigh. Where a word stands is declared in each.
PLACES = ("place", "repeat")
PRESENT = ("log_probability", "image_share", "attention", "divergence")
FURTHER = ("entropy", "svar", "pas")
LENS = ("internal_confidence", "glsim", "inslen")
CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "first four": FEATURES,
    "all but the lens": (*PRESENT, *FURTHER, *PLACES),
    "all": (*PRESENT, *FURTHER, *LENS, *PLACES),
}


@dataclass(frozen=True)
class Target:
    """The risk that a threshold is chosen for; see `choose_threshold`."""

    alpha: float = 0.1
    rule: Rule = "learn then test"
    loss: Loss = "any"
    delta: float = 0.1
    beta: float = 0.0

    def check(self, images: int) -> None:
        """Refuse too few images, a quarter of which choose the threshold.

        Raises:
            VlmHeadsError: with the number needed.
        """
        delta = self.delta if self.rule == "learn then test" else None
        needed = images_needed(self.rule, self.alpha, delta)
        if images // 4 < needed:
            raise VlmHeadsError(
                f"{images} images, a quarter of which choose the threshold",
                f"at least {4 * needed} for a risk of {100 * self.alpha:.3g} %",
                "use more images, or allow a higher risk",
            )


@dataclass(frozen=True)
class TunedWords:
    """A scorer with a threshold.

    Args:
        scorer: with its evidence and the statement of its risk in the provenance.
        threshold: how it was chosen.
        verified: what it does on the images that nothing was chosen on.
        statement: what is guaranteed, in words.
        verdict: what `verified` says, in words.
    """

    scorer: Scorer
    threshold: Threshold
    verified: Verified
    statement: str
    verdict: str


def tune_words(
    table: WordTable,
    geometry: Geometry,
    provenance: Mapping[str, Any],
    target: Target = Target(),
    *,
    candidates: Mapping[str, Sequence[str]] = CANDIDATES,
    draws: int = 2000,
    seed: int = 0,
) -> TunedWords:
    """Fit a scorer on half of the images, choose its threshold on a quarter, verify on the rest.

    Args:
        table: object words of captions, with the measures that the candidates weigh.
        geometry: of the model.
        provenance: plain values that say where the words come from.
        target: the risk.
        candidates: name -> measures; the best on a third of the fitting images is taken.
        draws: of the bootstrap over images.
        seed: for the split and these draws.

    Raises:
        VlmHeadsError: too few images for the risk, or words of one kind only.
    """
    target.check(table.images)
    share = np.random.default_rng(seed).permutation(table.images) / table.images
    learn = table.of_images(share < 0.5)
    select = table.of_images((share >= 0.5) & (share < 0.75))
    rest = table.of_images(share >= 0.75)
    best, _ = choose_features(learn, geometry, candidates, seed)
    scorer = fit_scorer(
        learn, geometry, {**provenance, "features": best}, features=candidates[best]
    )
    threshold = choose_threshold(
        image_scores(select, scorer, geometry), target.alpha, rule=target.rule, loss=target.loss,
        delta=target.delta, beta=target.beta,
    )  # fmt: skip
    found = verify_threshold(image_scores(rest, scorer, geometry), threshold)
    scorer = with_evidence(scorer, {"images held out": rest}, geometry, draws, seed)
    statement, verdict = guarantee(threshold), verified(found, threshold)
    # Words below a scorer's threshold are flagged, and those above the risk's threshold are kept.
    limit = float(np.clip(np.nextafter(threshold.value, np.inf), 0, 1))
    about = {**scorer.provenance, "risk": {"statement": statement, "verified": verdict}}
    return TunedWords(
        replace(scorer, threshold=limit, provenance=about), threshold, found, statement, verdict
    )


def image_scores(table: WordTable, scorer: Scorer, geometry: Geometry) -> list[ImageScores]:
    """Return the object words of each image with their scores, images without one included."""
    scores = table.scores(scorer, geometry)
    return [
        ImageScores(scores[table.image == image], table.true[table.image == image])
        for image in range(table.images)
    ]
