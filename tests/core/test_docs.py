"""The code in the documents runs."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import tiny
import torch

from vlmheads import Plugin, attach

ROOT = Path(__file__).parents[2]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def test_the_method_of_the_tutorial_works() -> None:
    (source,) = blocks("docs/your-own-method.md", "python")
    module = types.ModuleType("tutorial")
    sys.modules["tutorial"] = module
    exec(source, module.__dict__)
    quiet: type[Plugin] = module.Quiet
    model, inputs = tiny.build("llava"), tiny.inputs("llava")
    plain = model(**inputs).logits
    with attach(model, quiet.neutral()):
        assert torch.equal(model(**inputs).logits, plain)
    with attach(model, quiet()):
        assert not torch.equal(model(**inputs).logits, plain)


def test_the_three_lines_of_the_readme_work() -> None:
    (source,) = blocks("README.md", "python")
    model, inputs = tiny.build("llava"), tiny.inputs("llava")
    names = {"model": model, "inputs": inputs}
    exec(source.replace("512", "3"), names)
    assert names["output"].shape[1] == inputs["input_ids"].shape[1] + 3
