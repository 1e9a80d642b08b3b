"""`vlmheads tune --words`: a scorer, a threshold for a risk, and what verifies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from vlmheads_eval.calibrate.words import Target, image_scores, tune_words
from vlmheads_eval.commands.tune import tune
from vlmheads_eval.word_scores import WordTable

from vlmheads import VlmHeadsError
from vlmheads.grounding.scores import Scorer
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 8, 4)
CANDIDATES = {"tells": ("log_probability", "place", "repeat")}


def table(images: int, seed: int = 0) -> WordTable:
    """Words of images, some without any, whose log-probability tells the two kinds apart."""
    random = np.random.default_rng(seed)
    image = np.sort(random.integers(0, images, size=3 * images))
    true = random.random(3 * images) < 0.8
    values = {
        "log_probability": random.normal(size=3 * images) + 2 * true,
        "log_probability_without": np.zeros(3 * images),
        "place": random.integers(0, 40, size=3 * images),
        "repeat": np.zeros(3 * images),
    }
    return WordTable(image, true, values, random.normal(size=(3 * images, 4)), images)


def test_the_threshold_keeps_its_risk_on_images_of_its_own() -> None:
    tuned = tune_words(table(800), GEOMETRY, {"model": "some"}, Target(0.3), candidates=CANDIDATES,
                       draws=200)  # fmt: skip
    assert (tuned.threshold.images, tuned.verified.images) == (200, 200)
    other = image_scores(table(4000, seed=7), tuned.scorer, GEOMETRY)
    kept_false = [bool(((one.scores > tuned.threshold.value) & ~one.true).any()) for one in other]
    assert np.mean(kept_false) <= 0.3
    assert tuned.statement.startswith("With 90 % confidence over calibrations")
    assert "On 200 other images" in tuned.verdict
    about = tuned.scorer.provenance
    assert about["risk"] == {"statement": tuned.statement, "verified": tuned.verdict}
    assert about["held_out"]["images held out"]["images"] == 200
    assert tuned.scorer.caveat == ""
    # What is flagged is what the threshold does not keep.
    scores = table(50, 3).scores(tuned.scorer, GEOMETRY)
    assert ((scores < tuned.scorer.threshold) == (scores <= tuned.threshold.value)).all()


def test_images_without_an_object_count() -> None:
    words = table(60)
    found = image_scores(words, Scorer.plain(), Geometry("llava", 8, 4))
    assert len(found) == 60
    assert sum(len(one.scores) for one in found) == 180
    assert min(len(one.scores) for one in found) == 0


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    with pytest.raises(VlmHeadsError, match="at least 88 for a risk of 10 %"):
        tune_words(table(80), GEOMETRY, {}, Target(0.1), candidates=CANDIDATES)


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(tune, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--words", "--rule", "split", "--delta", 0.2), "--delta with --rule split"),
        (("--words", "--beta", 0.2), "--beta with --rule learn-then-test"),
        (("--words", "--num", 20), "20 images, a quarter of which"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(
    options: tuple[Any, ...], message: str, tmp_path: Path
) -> None:
    done = run("--out", tmp_path / "w.json", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "w.json").exists()


def test_the_command_writes_a_scorer_that_flags_take(tmp_path: Path) -> None:
    out = tmp_path / "w.json"
    options = ("--rule", "split", "--alpha", 0.5, "--num", 40, "--no-lens", "--seed", 3)
    done = run("--words", "--data", "testbed:counterfactual", "--out", out, *options)
    assert done.exit_code == 0, done.output
    scorer = Scorer.load(out)
    assert scorer.name == "fitted on embedded"
    assert scorer.provenance["plugins"] == []
    assert scorer.provenance["risk"]["statement"] in done.stdout
    assert "place alone" in done.stdout
