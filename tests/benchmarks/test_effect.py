"""benchmarks/effect.py: what it runs, that it goes on where it was stopped, what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import effect
import effect_beside
import effect_report
import pytest
import torch
from effect_needs import layer_choices, learned
from effect_settings import DRAWS, GRID_ALPHAS, SETTINGS, Scope, settings

import vlmheads
from vlmheads.headmap import HeadMap
from vlmheads.learned import Learned
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry
from vlmheads.registry import parse_plugin

# One process makes the runs.
pytestmark = pytest.mark.xdist_group("effect")


def test_every_plugin_has_its_default_and_three_strengths() -> None:
    assert set(SETTINGS) == set(vlmheads.list_plugins())
    assert {len(entries) for entries in SETTINGS.values()} == {4}


def test_no_two_runs_have_one_name() -> None:
    names = [one.name for one in settings({})]
    assert len(set(names)) == len(names)


def test_what_was_not_learned_is_not_run() -> None:
    texts = {one.name: one.text for one in settings({}, Scope(("icd", "vhr")))}
    assert texts["icd"] is None
    assert texts["vhr alpha=3"] == "vhr:alpha=3"
    assert texts["vhr alpha=3, random heads 0"] is None


def test_a_scope_of_one_strength_is_every_plugins_default_and_its_controls() -> None:
    runs = list(settings({}, Scope(strengths=1, draws=2)))
    methods = [one for one in runs if one.kind == "method"]
    assert {one.plugin for one in methods} == set(SETTINGS)
    assert len(methods) == len(SETTINGS)
    controlled = [one.controls for one in runs if one.kind == "random heads"]
    assert controlled.count("vhr") == 2
    assert set(controlled) <= {one.name for one in methods}


def test_a_further_setting_is_run_beside_the_others() -> None:
    runs = list(settings({}, Scope(("var",), strengths=1, also=("var:tau=15",))))
    assert [one.text for one in runs if one.kind == "method"] == ["var", "var:tau=15"]


def test_offsets_are_held_against_the_same_vectors_at_random_heads(tmp_path: Path) -> None:
    (tmp_path / "needs.json").write_text("{}")
    scores = torch.arange(16.0).reshape(4, 4)
    made = {"offsets": torch.randn(4, 4, 8), "scores": scores, "count": torch.ones(1)}
    Learned("offsets", made, Geometry("llava", 4, 4)).save(tmp_path / "vectors.safetensors")
    needs = learned(tmp_path, draws=2)
    runs = settings(needs, Scope(("offsets",), draws=2))
    found = [
        Learned.load(one.text.partition("learned=")[2].partition(",")[0])
        for one in runs
        if one.kind == "random heads" and one.text
    ]
    assert len(found) == 2
    for one in found:
        assert torch.equal(one.values["offsets"], made["offsets"])
        assert torch.equal(one.values["scores"].flatten().sort().values, scores.flatten())
    assert not torch.equal(found[0].values["scores"], found[1].values["scores"])


def test_the_grid_is_vhr_at_each_factor_in_three_choices_of_layers() -> None:
    needs = layer_choices(6) | {"map-0": "map"}
    runs = list(settings(needs, Scope(("vhr",), strengths=1, draws=1, grid=True)))
    texts = {one.text for one in runs if one.kind == "method"}
    assert len(texts) == 3 * len(GRID_ALPHAS)
    assert "vhr" in texts  # at 2 in its own layers
    assert "vhr:alpha=1.05,layers=[0, 1, 2]" in texts
    assert "vhr:alpha=2,layers=[0, 1, 2, 3, 4, 5]" in texts
    assert all(parse_plugin(text).name == "vhr" for text in texts if text)
    assert {one.controls for one in runs if one.kind == "random heads"} == {"vhr", "vhr alpha=1.25"}


def test_options_that_need_nothing_learned_are_valid() -> None:
    for one in settings({}):
        if one.text:
            assert parse_plugin(one.text).name == one.plugin


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> effect.Plan:
    """Four scenes under VHR and its controls, and ICD, which is refused."""
    out = tmp_path_factory.mktemp("effect")
    made = effect.Plan(out, "embedded", ("test",), 4, 0, 3, Scope(("vhr", "icd")))
    geometry = examine(effect.load(made).model).geometry
    needs = {"prefix": "[]"}
    for draw in range(DRAWS):
        needs[f"map-{draw}"] = str(out / f"map-{draw}.safetensors")
        generator = torch.Generator().manual_seed(draw)
        values = torch.rand(1, geometry.layers, geometry.heads, generator=generator)
        HeadMap(values, geometry, "random").save(needs[f"map-{draw}"])
    (out / "needs").mkdir()
    (out / "needs" / "needs.json").write_text(json.dumps(needs))
    effect.work(made, needs, 0, 1)
    result = effect.measured(made, needs, "pattern", 200)
    (out / "effect.json").write_text(json.dumps(result))
    return made


def saved(plan: effect.Plan) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((plan.out / "effect.json").read_text())
    return result


def test_every_method_is_compared_with_plain_random_heads_no_image_and_cutting(
    plan: effect.Plan,
) -> None:
    found = saved(plan)["splits"]["test"]
    names = {method["name"] for method in found["methods"]}
    assert names == {"vhr", "vhr alpha=1.25", "vhr alpha=1.5", "vhr alpha=3", "no image"}
    assert set(found["random heads"]) == {"vhr", "vhr alpha=3"}
    assert found["random heads"]["vhr"]["draws"] == DRAWS
    assert set(found["differences"]) == set(found["at recall"]) == names
    assert found["same as plain"]["plain"] == 1.0
    assert found["missing"] == []


def test_a_method_that_is_refused_is_there_with_the_reason(plan: effect.Plan) -> None:
    assert "without a disturbing instruction" in saved(plan)["splits"]["test"]["refused"]["icd"]


def test_a_run_that_was_stopped_goes_on_and_says_the_same(plan: effect.Plan) -> None:
    file = plan.out / "test" / "vhr" / "predictions.jsonl"
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    file.write_text(lines[0] + lines[1][:20])  # killed while it wrote the second
    effect.work(plan, {}, 0, 1)
    assert file.read_text() == whole
    times = (file.parent / "times.jsonl").read_text().splitlines()
    assert [json.loads(line)["captions"] for line in times] == [4, 3]


def test_what_another_process_does_is_left_to_it(plan: effect.Plan) -> None:
    claim = plan.out / "claims" / "one"
    with effect.claimed(claim) as mine, effect.claimed(claim) as again:
        assert (mine, again) == (True, False)


def test_a_process_ends_where_the_one_that_started_it_was_killed(
    plan: effect.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = SimpleNamespace(is_alive=lambda: False)
    monkeypatch.setattr(effect.multiprocessing, "parent_process", lambda: killed)
    effect.work(replace(plan, out=tmp_path), {}, 0, 1)
    assert not (tmp_path / "claims").exists()


def test_another_model_has_blocks_and_figures_of_its_own(plan: effect.Plan, tmp_path: Any) -> None:
    document = tmp_path / "effect.md"
    effect_report.write(saved(plan), document)
    first = document.read_text()
    files = effect_report.write(saved(plan) | {"model": "smol", "prompt": "Look."}, document)
    text = document.read_text()
    assert text.startswith(first)
    assert "<!-- effect: smol levels test -->" in text
    assert 'asked to "Look."' in text
    assert {path.name for path in files[1:]} == {
        "effect-smol-test.svg",
        "effect-smol-test-at-recall.svg",
    }


def test_the_document_keeps_its_prose_and_gets_its_tables(plan: effect.Plan, tmp_path: Any) -> None:
    document = tmp_path / "docs" / "effect.md"
    document.parent.mkdir()
    block = "<!-- effect: levels test -->\nold\n<!-- end -->\n"
    document.write_text(f"# Title\n\nBefore.\n\n{block}\nAfter.\n")
    files = effect_report.write(saved(plan), document)
    text = document.read_text()
    assert text.startswith("# Title\n\nBefore.\n")
    assert "\nAfter.\n" in text
    assert "old" not in text
    assert "| `vhr alpha=3` |" in text
    assert all(file.is_file() for file in files)
    effect_report.write(saved(plan), document)
    assert document.read_text() == text


def test_a_run_that_names_next_to_nothing_is_named_and_not_drawn(
    plan: effect.Plan, tmp_path: Any
) -> None:
    found = saved(plan)["splits"]["test"]
    (whole, _) = effect_report.figures(found, "whole", tmp_path)
    found["at recall"]["vhr"]["object_f1"] |= {"value": -0.5, "holm": 0.001}
    (off, far) = effect_report.figures(found, "off", tmp_path)
    for run in found["runs"]:
        if run["name"] == "vhr":
            run["overall"]["recall"] = 0.0
    (broken, _) = effect_report.figures(found, "broken", tmp_path)
    assert "methods not told from the line, not drawn: 1" in whole.read_text()
    assert "not drawn" not in off.read_text()
    values = [one["object_f1"]["value"] for one in found["at recall"].values()]
    count = sum(value is not None and value < -0.1 for value in values)
    assert count > 0
    assert f"settings lower by more than 10 points, not drawn: {count}" in far.read_text()
    assert "at less than half of plain's recall, not drawn: vhr" in broken.read_text()


def test_models_stand_side_by_side_with_what_others_report(plan: effect.Plan) -> None:
    rows = effect_beside.beside([saved(plan), saved(plan) | {"model": "smol"}])
    assert rows[0] == ["plugin", "embedded, test", "smol, test", "LLaVA-1.5-7B"]
    assert [row[0] for row in rows[1:]] == ["`vhr`"]  # icd was refused
    assert rows[1][1] == rows[1][2] != ""
    assert "33.3/9.7" in rows[1][3]
    assert set(effect_beside.REPORTED) <= set(SETTINGS)
