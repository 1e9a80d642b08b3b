"""Plugins of different kinds act side by side; two that contrast are refused."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import tiny
import torch
from active import make

from vlmheads import VlmHeadsError, attach

# Two of each kind: head outputs, attention rows, hidden states, logits.
NAMES = ("vhr", "spin", "pai", "zerotuning", "vista", "memvr", "deco", "cfg")


def generate(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[list[Any], torch.Tensor]:
    output = model.generate(
        **inputs,
        max_new_tokens=3,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.sequences.tolist(), torch.stack(output.logits)


@pytest.mark.parametrize(("first", "second"), [*combinations(NAMES, 2)])
def test_two_methods_together_are_each_applied(first: str, second: str) -> None:
    model, inputs = tiny.build("llava-gqa"), tiny.inputs("llava-gqa", (5, 3))
    plugins = [make(name, "llava-gqa") for name in (first, second)]
    alone = []
    for plugin in plugins:
        with attach(model, plugin):
            alone.append(generate(model, inputs)[1])
    with attach(model, plugins):
        together = generate(model, inputs)
    with attach(model, plugins[0]), attach(model, plugins[1]):
        nested = generate(model, inputs)
    assert together[0] == nested[0]
    assert torch.equal(together[1], nested[1])
    assert not together[1].isnan().any()
    assert all(not torch.equal(together[1][0], logits[0]) for logits in alone)


@pytest.mark.parametrize(("first", "second"), [*combinations(("cfg", "m3id", "vcd", "icd"), 2)])
def test_two_contrasts_are_refused_by_name(first: str, second: str) -> None:
    model = tiny.build("llava")
    plugins = [make(name, "llava") for name in (first, second)]
    with pytest.raises(VlmHeadsError, match=f"{first} and {second} both claim .*'contrast'"):
        attach(model, plugins)


def test_guidance_as_an_option_is_a_contrast_too() -> None:
    model = tiny.build("llava")
    with pytest.raises(VlmHeadsError, match="pai and cfg both claim .*'contrast'"):
        attach(model, ["pai:gamma=1.1", "cfg"])
    with attach(model, ["pai", "cfg"]) as attachment:
        assert attachment.attached
