"""`vlmheads verify`: all passes on a good model, and what is wrong with another is a row."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from vlmheads_testbed import embedded_model

from vlmheads.cli import main
from vlmheads.model import loading
from vlmheads.model.loading import load_model
from vlmheads.runtime import attention
from vlmheads.runtime.attachment import ATTACHED
from vlmheads.verify import checks
from vlmheads.verify.checks import Finding, examine_subject
from vlmheads.verify.subject import Subject, gap

Change = Callable[[torch.nn.Module, torch.Tensor], float]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def subject(family: str = "llava") -> Subject:
    lengths = (5, 3)
    inputs = {f"row {row}": tiny.row(family, lengths, row) for row in range(2)}
    model = copy.deepcopy(tiny.build(family))  # tests change it
    return Subject(model, inputs | {"batch": tiny.inputs(family, lengths)}, tokens=3)


def judged(subject: Subject, state: str) -> dict[str, str]:
    """Names and details of the rows with one verdict."""
    return {row.name: row.detail for row in examine_subject(subject) if row.state == state}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what is timed."""
    monkeypatch.setattr(checks, "_overhead", lambda subject: iter(()))


def test_the_packaged_model_passes_and_the_report_says_with_what() -> None:
    done = run("embedded")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert (
        lines[0]
        == "model: embedded (LlavaForConditionalGeneration, llava with 8 layers of 8 heads)"
    )
    assert f"torch {torch.__version__}" in done.stdout
    assert lines[-1] == "all passed"
    rows = [line.split()[0] for line in lines[6:-2]]
    assert (rows.count("PASS"), rows.count("FAIL")) == (36, 0)
    assert "alone and in a padded batch bit-identical" in done.stdout
    assert "overhead: text-only stream" in done.stdout
    assert "memory: process" in done.stdout


def test_json_has_the_same_rows(quick: None) -> None:
    done = run("embedded", "--json", "--dtype", "bfloat16")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"]) == (0, True)
    assert found["about"]["dtype"] == "bfloat16, attention sdpa"
    assert {"name": "after detach", "state": "PASS", "detail": "bit-identical"} in found["rows"]


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "paligemma", "mistral3"])
def test_tiny_models_of_other_layouts_pass(quick: None, family: str) -> None:
    assert judged(subject(family), "FAIL") == {}


def attached(model: torch.nn.Module) -> bool:
    return ATTACHED in vars(model)


def multiplied(model: torch.nn.Module, factor: Change) -> None:
    """Let a model multiply its own logits by what `factor` says of it and them."""

    def change(module: torch.nn.Module, _: Any, output: Any) -> None:
        output.logits = output.logits * factor(module, output.logits)

    model.register_forward_hook(change, prepend=True)


def test_a_model_that_answers_otherwise_while_attached_fails(quick: None) -> None:
    found = subject()
    multiplied(found.model, lambda model, _: 1.5 if attached(model) else 1)
    wrong = judged(found, "FAIL")
    assert "logits of row 0 differ by 0.5" in wrong["neutral: heads"]
    assert {"neutral: logits", "rows by hand", "text-only view"} <= set(wrong)
    assert "after detach" not in wrong


def test_a_model_that_is_not_as_before_fails_after_detach(quick: None) -> None:
    found, met = subject(), []

    def factor(model: torch.nn.Module, _: torch.Tensor) -> float:
        met.extend([True] * attached(model))
        return 1.5 if met and not attached(model) else 1

    multiplied(found.model, factor)
    assert set(judged(found, "FAIL")) == {"after detach", "text-only view"}


def test_rows_that_leave_something_out_fail(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    score = attention.score
    monkeypatch.setattr(attention, "score", lambda *given: 0.8 * score(*given))
    wrong = judged(subject(), "FAIL")
    assert set(wrong) == {"rows by hand", "tokens ahead"}
    assert "at most 0.0001 allowed" in wrong["rows by hand"]


def test_an_edit_that_does_nothing_fails(quick: None) -> None:
    found = subject()
    for mlp in found.anatomy.mlps:
        mlp.register_forward_hook(lambda _, args, output: torch.zeros_like(output))
    assert set(judged(found, "FAIL")) == {"acts: MLP outputs"}


def test_a_decoder_without_modules_for_its_mlps_is_not_judged_by_them(quick: None) -> None:
    one = subject()
    one.anatomy = replace(one.anatomy, mlps=(None,) * len(one.anatomy.layers))
    assert "no module for the MLP" in judged(one, "INFO")["MLP outputs"]
    assert judged(one, "FAIL") == {}
    assert not any("MLP" in name for name in judged(one, "PASS"))


def test_a_model_that_padding_changes_is_not_blamed_on_plugins(quick: None) -> None:
    found = subject()
    multiplied(found.model, lambda _, logits: 1.1 if logits.shape[0] == 2 else 1)
    assert "plain batch" in judged(found, "INFO")
    assert not any(name.startswith("batch") for name in judged(found, "PASS"))


def test_a_model_that_does_not_repeat_itself_is_held_to_the_tolerance(quick: None) -> None:
    found = subject()
    multiplied(found.model, lambda _, logits: 1 + 1e-6 * float(torch.randn(())))
    assert "two runs differ by" in judged(found, "INFO")["plain model"]
    assert judged(found, "PASS")["after detach"] == "equal"


def test_a_crash_is_a_row(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(attention, "score", broken)
    assert judged(subject(), "FAIL")["rows by hand"] == "crash: RuntimeError: no such kernel"


def test_a_failed_row_gives_exit_code_1(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_rows", lambda case: 1 / 0)
    done = run("embedded")
    assert done.exit_code == 1
    assert "FAIL  rows by hand               crash: ZeroDivisionError" in done.stdout
    assert done.stdout.endswith("\n1 failed\n")


def test_a_model_that_does_not_run_is_refused_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(name: str, **options: Any) -> tuple[Any, Any]:
        model, processor = load_model(name, **options)

        def refuse(*_: object) -> None:
            raise RuntimeError("CUDA error: no kernel image\nCompile with TORCH_USE_CUDA_DSA")

        model.register_forward_pre_hook(refuse)
        return model, processor

    monkeypatch.setattr(loading, "load_model", load)
    done = run("embedded")
    assert (done.exit_code, done.stdout) == (2, "")
    assert (
        "cannot be run without plugins (RuntimeError: CUDA error: no kernel image)" in done.stderr
    )


def test_a_model_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    for file in Path(embedded_model()).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    done = run(tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: " in done.stderr
    assert run("./nowhere").exit_code == 2


def test_the_gap_is_relative_and_ignores_what_changes_no_probability() -> None:
    logits = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0))
    logits[..., 7] = -torch.inf
    assert gap(logits, logits) == 0
    assert gap(logits + 5, logits) < 1e-5
    assert gap(1.5 * logits, logits) == pytest.approx(0.5, abs=1e-5)
    allowed = logits.clone()
    allowed[..., 7] = 0
    assert gap(allowed, logits) == torch.inf
    assert gap(logits.where(logits < 1, torch.nan), logits) == torch.inf


def test_a_row_is_plain_values() -> None:
    assert Finding("a", "PASS", "b").to_dict() == {"name": "a", "state": "PASS", "detail": "b"}
