from __future__ import annotations

import json
from pathlib import Path

import pytest
from vlmheads_eval.report.notebook import Comparison, compare_runs

import vlmheads

DATA = Path(__file__).parents[3] / "docs" / "data" / "wrong-places.json"


def test_a_comparison_shows_every_run_with_its_verdict_and_escapes_names() -> None:
    result = json.loads(DATA.read_text("utf-8"))
    html = vlmheads.show(Comparison(result)).html
    for run in result["runs"]:
        assert f">{run['name']}</td>" in html
    for name, verdict in Comparison(result).verdicts.items():
        assert verdict in html
        assert name in html
    evil = json.loads(DATA.read_text("utf-8").replace('"vhr"', '"<script>x</script>"'))
    assert "<script>" not in Comparison(evil)._repr_html_()


def test_runs_are_compared_as_on_the_command_line(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"1": ["dog"], "2": ["cat"], "3": ["dog"]}))
    for name, texts in (("plain", ("A dog and a cat.", "A cat.", "A dog and a bus.")),
                        ("ours", ("A dog.", "A cat.", "A dog."))):  # fmt: skip
        lines = [
            json.dumps({"image_id": number, "caption": text})
            for number, text in enumerate(texts, start=1)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    runs = [tmp_path / "plain.jsonl", tmp_path / "ours.jsonl"]
    found = compare_runs(runs, ground_truth=[truth], draws=200)
    assert [run["name"] for run in found.result["runs"]] == ["plain", "ours"]
    assert found.result["runs"][1]["overall"]["CHAIRs"] == pytest.approx(0.0)
    assert list(found.verdicts) == ["ours"]
    names = ["plain", "vhr:alpha=1.5,layers=[1, 2]"]
    named = compare_runs(runs, ground_truth=[truth], names=names, draws=200)
    assert list(named.verdicts) == names[1:]
