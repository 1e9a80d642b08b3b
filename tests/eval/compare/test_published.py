"""Verdicts on published captions of real models; skipped where the files are not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlmheads_eval.chair.broken import broken_text
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.chair import compare_chair
from vlmheads_eval.compare.runs import RunScores, pool_seeds, score_texts
from vlmheads_eval.compare.verdict import SAYS_LESS, SAYS_MORE
from vlmheads_eval.records import read_captions, read_records
from vlmheads_eval.statistics import BETTER, SAME, WORSE

GREEDY = "captions/opera_llava-1.5_greedy.jsonl"
Compare = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def scored(shared: Callable[[str], Path]) -> Callable[..., RunScores]:
    """Score a published file once."""
    objects = json.loads(shared("coco/gt_objects_2014.json").read_text("utf-8"))["imid_to_objects"]
    truth = GroundTruth({key: frozenset(found) for key, found in objects.items()}, ())
    kept: dict[tuple[str, str | None], RunScores] = {}

    def score(name: str, decoding: str | None = None) -> RunScores:
        file = shared(name if "/" in name else f"published/{name}.jsonl")
        if (name, decoding) not in kept:
            captions = read_captions(file)
            kept[name, decoding] = score_texts(
                name, captions, truth, get_variant("pattern"), decoding
            )
        return kept[name, decoding]

    return score


def only(result: dict[str, Any]) -> dict[str, Any]:
    (method,) = result["methods"]
    return dict(method)


@pytest.mark.parametrize(
    ("baseline", "method", "verdict", "flagged"),
    [
        ("adaiat_greedy", "adaiat_ada", BETTER, []),
        ("adaiat_greedy", "adaiat_iat", SAYS_LESS, []),
        ("adaiat_greedy", "adaiat_hgai", SAYS_LESS, ["repeats"]),
        ("areebol_regular", "areebol_deco", BETTER, []),
        (GREEDY, "areebol_deco", WORSE, []),
        (GREEDY, "cca_base_long", SAME, []),
        ("qwen3vl_sft", "qwen3vl_dpo", SAYS_MORE, ["repeats", "much longer"]),
        ("tame_blip_sample", "tame_blip_tame", WORSE, ["repeats", "broken text"]),
        ("marine_0", "marine_07", BETTER, []),
    ],
)
def test_the_verdict_on_published_captions(scored, baseline, method, verdict, flagged):
    found = only(compare_chair([scored(baseline), scored(method)], draws=1000))
    assert found["verdict"] == verdict
    assert [flag["name"] for flag in found["flags"]] == flagged


def test_a_run_that_gains_f1_along_the_line_is_not_called_worse(scored):
    found = only(compare_chair([scored("qwen3vl_sft"), scored("qwen3vl_dpo")], draws=300))
    assert found["difference"]["CHAIRs"]["low"] > 0
    assert found["difference"]["object_f1"]["value"] == pytest.approx(0.056, abs=0.001)
    assert found["verdict"] == SAYS_MORE


def test_two_greedy_runs_of_two_authors_are_the_yardstick(scored):
    found = only(compare_chair([scored(GREEDY), scored("cca_base_long")], draws=2000))
    change = found["difference"]["CHAIRs"]
    assert [round(100 * change[part], 1) for part in ("value", "low", "high")] == pytest.approx(
        [1.2, 0.2, 2.4], abs=0.21
    )


def test_pooled_seeds_of_halc_are_worse_than_cutting_and_broken(scored):
    names = [f"halc_llava_{kind}_s{seed}" for kind in ("greedy", "halc") for seed in (1, 2, 4)]
    runs = pool_seeds([scored(name, "greedy") for name in names])
    assert [(run.name, run.kind) for run in runs] == [
        ("halc_llava_greedy", "greedy, 3 runs pooled"),
        ("halc_llava_halc", "greedy, 3 runs pooled"),
    ]
    result = compare_chair(runs, draws=1000)
    found = only(result)
    assert result["images"] == 1490
    assert found["verdict"] == WORSE
    at_recall = found["at_recall"]["CHAIRs"]
    assert [100 * at_recall[part] for part in ("value", "low", "high")] == pytest.approx(
        [8.2, 6.4, 10.1], abs=0.4
    )
    broken = next(flag for flag in found["flags"] if flag["name"] == "broken text")
    assert broken["value"] == pytest.approx(0.306, abs=0.01)
    assert broken["baseline"] == 0.0


@pytest.mark.parametrize(
    "name",
    [
        *(GREEDY, "captions/opera_minigpt4_greedy.jsonl", "captions/devils_llava_greedy.jsonl"),
        *("adaiat_greedy", "cca_base_long", "qwen3vl_base", "halc_owl2_greedy_s4"),
    ],
)
def test_plain_greedy_captions_are_hardly_ever_broken(shared, name):
    file = shared(name if "/" in name else f"published/{name}.jsonl")
    found = [broken_text(record["caption"]) for _, record in read_records(file)]
    assert sum(found) <= 0.003 * len(found)
