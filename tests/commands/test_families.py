"""`vlmheads families`: every entry of transformers is answered for, with what was tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vlmheads.cli import main
from vlmheads.model import coverage
from vlmheads.model.coverage import PADDING, Coverage, condensed, installed_entries
from vlmheads.model.families import FAMILIES, Family, family_of

GOOD = {"model": "pass", "attach": "pass", "rows": "pass"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["families", *arguments])


def of(report: dict[str, dict[str, str]], *model_types: str, refusal: str = "") -> tuple[str, str]:
    found = Coverage("5.24.0", "2.13.0", condensed(report))
    return found.of(Family("A", model_types, refusal=refusal))


def test_no_model_type_is_in_two_families() -> None:
    kinds = [kind for family in FAMILIES for kind in family.model_types]
    assert len(kinds) == len(set(kinds))


def test_what_was_swept_is_in_a_family() -> None:
    entries = {name.partition("+")[0] for name in Coverage.load().entries}
    assert entries <= {kind for family in FAMILIES for kind in family.model_types}


def test_a_family_is_tested_when_all_its_entries_passed() -> None:
    assert of({"a": GOOD, "a+b": GOOD, "c": GOOD}, "a", "c") == ("tested", "")
    assert of({}, "a") == ("not tested", "")


def test_what_does_not_pass_is_named_with_its_entry() -> None:
    report = {"a": GOOD, "a+b": GOOD | {"rows": "FAIL: off by 1", "pixels": "refused: no pixels"}}
    state, detail = of(report, "a")
    assert state == "partly tested"
    expected = "a+b: refused: streams with changed images (vcd, damro); fails: attention rows"
    assert detail == expected


def test_what_upstream_does_is_not_held_against_a_family() -> None:
    state, detail = of({"a": GOOD | {"model": f"pass ({PADDING})"}}, "a")
    assert (state, detail) == ("tested", "padding changes rows, also without vlmheads")
    assert of({"a": {"model": "none: TypeError: no"}}, "a") == ("not tested", "TypeError: no")


def test_a_refusal_is_told_by_its_reason() -> None:
    assert of({"a": {"model": "pass", "attach": "refused: no heads"}}, "a")[0] == "refused"
    assert of({"a": GOOD}, "a", refusal="it is a text model") == ("refused", "it is a text model")


def test_a_check_without_words_is_noticed() -> None:
    with pytest.raises(ValueError, match="'sparkle'"):
        condensed({"a": {"sparkle": "pass"}})


def test_the_check_names_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        coverage, "installed_entries", lambda: {"llava": "Llava", "mllama": "M", "qwen9_vl": "Q9"}
    )
    done = run("--check")
    first, last = done.stdout.splitlines()
    assert done.exit_code == 0
    assert first == "new: not tested: qwen9_vl (Q9)"
    assert "3 image-text models in transformers" in last
    assert "1 tested, 0 partly tested, 1 refused, 1 not tested" in last
    assert last.endswith(f"the table was made on {Coverage.load().transformers}")


def test_the_installed_entries_are_those_of_the_auto_class() -> None:
    assert installed_entries()["llava"] == "LlavaForConditionalGeneration"


def test_the_list_says_what_was_tested_with_what() -> None:
    shown = run().stdout
    assert shown.startswith(f"swept on transformers {Coverage.load().transformers}, torch ")
    assert "InternVL3, InternVL3.5  [internvl]" in shown
    assert "tiny random models also as internvl+deepseek_v3, internvl+gpt_oss, " in shown
    assert "real checkpoints: embedded, smol" in shown
    assert run("--check", "--markdown").exit_code == 2


def test_a_family_without_a_row_keeps_its_type_for_a_name() -> None:
    assert family_of("qwen9_vl").name == "qwen9_vl"
    assert Coverage.load().state("qwen9_vl") == ("not tested", "")


def test_a_coverage_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "coverage.json"
    file.write_text(json.dumps({"transformers": "6", "torch": "3", "entries": {"a": {}}}))
    assert Coverage.load(file).of(Family("A", ("a",))) == ("tested", "")
