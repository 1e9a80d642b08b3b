"""The files that pages include do what the pages say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import tiny
import torch

from vlmheads import Plugin, attach

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> type[Plugin]:
    return load("quiet_heads", monkeypatch).Quiet


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_method_of_the_tutorial_acts_and_is_neutral_where_it_says_so(
    quiet: type[Plugin], family: str
) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family)
    plain = model(**inputs).logits
    with attach(model, quiet.neutral()):
        assert torch.equal(plain, model(**inputs).logits)
    with attach(model, quiet()):
        assert not torch.equal(plain, model(**inputs).logits)
    assert torch.equal(plain, model(**inputs).logits)


def test_the_method_of_the_tutorial_leaves_text_alone(quiet: type[Plugin]) -> None:
    model = tiny.build("llava")
    text = {"input_ids": torch.tensor([[5, 6, 7]])}
    plain = model(**text).logits
    with attach(model, quiet()):
        assert torch.equal(plain, model(**text).logits)


def test_the_method_of_the_tutorial_has_20_lines_of_code() -> None:
    lines = (EXAMPLES / "quiet_heads.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 20


def test_a_family_that_vlmheads_does_not_name_is_held_to_its_promises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = load("new_family", monkeypatch)
    assert example.check(example.tiny_model(), example.prompt()) > 1e-3
