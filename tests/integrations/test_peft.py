"""Adapters that are switched, merged and disabled while plugins are attached.

tests/runtime/test_wrappers.py attaches to a PeftModel and to its base, and adds an adapter late.
"""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import tiny
import torch
from examples import HeadScaler, HiddenAdder, RowReweighter
from torch import Tensor

from vlmheads import Plugin, VlmHeadsError, attach

# PEFT still asks transformers by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
LORA = peft.LoraConfig(target_modules=["q_proj", "o_proj", "up_proj"], r=2, init_lora_weights=False)
PLUGINS = pytest.mark.parametrize("plugin", [HeadScaler(), RowReweighter(), HiddenAdder()], ids=str)


@pytest.fixture
def adapted() -> Any:
    torch.manual_seed(0)
    model = peft.get_peft_model(copy.deepcopy(tiny.build("llava")), LORA)
    model.add_adapter("second", LORA)
    return model


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return tiny.inputs("llava")


@torch.no_grad()
def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    found: Tensor = model(**inputs).logits
    return found


@PLUGINS
def test_a_disabled_adapter_leaves_the_plugin_on_the_plain_model(
    plugin: Plugin, adapted: Any, inputs: dict[str, Tensor]
) -> None:
    base = tiny.build("llava")
    with attach(base, plugin):
        expected = logits(base, inputs)
    with attach(adapted, plugin):
        acting = logits(adapted, inputs)
        with adapted.disable_adapter():
            assert torch.equal(logits(adapted, inputs), expected)
        assert torch.equal(logits(adapted, inputs), acting)
    assert not torch.equal(acting, expected)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted, inputs), logits(base, inputs))


@PLUGINS
def test_an_adapter_that_is_switched_while_attached_is_the_one_that_acts(
    plugin: Plugin, adapted: Any, inputs: dict[str, Tensor]
) -> None:
    expected = []
    for name in ("default", "second"):
        adapted.set_adapter(name)
        with attach(adapted, plugin):
            expected.append(logits(adapted, inputs))
    with attach(adapted, plugin):
        for name, wanted in zip(("default", "second"), expected, strict=True):
            adapted.set_adapter(name)
            assert torch.equal(logits(adapted, inputs), wanted)
    assert not torch.equal(*expected)


@PLUGINS
def test_merging_while_attached_changes_nothing_but_rounding(
    plugin: Plugin, adapted: Any, inputs: dict[str, Tensor]
) -> None:
    plain = logits(adapted, inputs)
    with attach(adapted, plugin):
        expected = logits(adapted, inputs)
        adapted.merge_adapter()
        torch.testing.assert_close(logits(adapted, inputs), expected, atol=1e-5, rtol=0)
        adapted.unmerge_adapter()
        torch.testing.assert_close(logits(adapted, inputs), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, plain, atol=1e-4)


def test_an_adapter_that_is_merged_away_asks_for_a_new_attachment(
    adapted: Any, inputs: dict[str, Tensor]
) -> None:
    attachment = attach(adapted, HeadScaler())
    expected = logits(adapted, inputs)
    merged = adapted.merge_and_unload()
    with pytest.raises(VlmHeadsError, match="output projection of layer 0 was replaced"):
        logits(merged, inputs)
    attachment.detach()
    with attach(merged, HeadScaler()):
        torch.testing.assert_close(logits(merged, inputs), expected, atol=1e-5, rtol=0)
