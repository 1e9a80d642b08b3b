"""The benchmark of word scores, on a handful of scenes."""

from __future__ import annotations

import json
from pathlib import Path

import words
from click.testing import CliRunner
from vlmheads_eval.word_scores import COLUMNS

from vlmheads.grounding.scores import Scorer


def test_the_benchmark_fits_measures_and_saves_a_scorer(tmp_path: Path) -> None:
    out, saved = tmp_path / "words.json", tmp_path / "grounding.json"
    options = "--fit-on testbed:counterfactual --fit-num 30 --data testbed:test --num 4 --plugin"
    done = CliRunner().invoke(
        words.main, [*options.split(), "", "--out", str(out), "--save-scorer", str(saved)]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert list(found["separation"]) == ["testbed:test"]  # nothing on the images of the fit
    scores = found["separation"]["testbed:test"]["scores"]
    assert {"place alone", "SVAR", "Internal Confidence", "P(yes)", "combined"} < set(scores)
    assert set(COLUMNS) < set(scores["combined"])
    scorer = Scorer.load(saved)
    evidence = scorer.provenance["held_out"]["testbed:test"]
    assert evidence["all"]["value"] == scores["combined"]["all"]["value"]
    assert scorer.provenance["features"] in found["features chosen by AUROC within bins"]
    assert found["dropped"]["testbed:test"]["combined"]["images"] == 4
    assert "| combined |" in done.stdout
    assert "| place alone |" in done.stdout


def test_the_fit_is_not_measured_on_its_own_images() -> None:
    done = CliRunner().invoke(words.main, ["--fit-on", "testbed:test"])
    assert done.exit_code == 2
    assert "testbed:test is fitted on" in done.output
