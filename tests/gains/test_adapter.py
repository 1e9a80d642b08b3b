"""Gains as a PEFT adapter give what the plugin `gains` gives."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from click.testing import CliRunner
from torch import Tensor

import vlmheads
from vlmheads import HeadMap, VlmHeadsError, save_adapter
from vlmheads.cli import main
from vlmheads.model.anatomy import examine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft


def gains_of(model: Any, seed: int = 3) -> HeadMap:
    geometry = examine(model).geometry
    generator = torch.Generator().manual_seed(seed)
    values = 0.5 + torch.rand(2, geometry.layers, geometry.heads, generator=generator)
    values[:, 1] = 1  # a layer without gains
    return HeadMap(values, geometry, "gain")


def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    found: Tensor = model(**inputs, use_cache=False).logits
    return found


def expected(model: Any, inputs: dict[str, Tensor], gains: HeadMap, strength: float) -> Tensor:
    plugin = vlmheads.get_plugin("gains").from_dict({"head_map": gains, "strength": strength})
    plain = logits(model, inputs)
    with vlmheads.attach(model, plugin):
        found = logits(model, inputs)
    assert float((found - plain).abs().max()) > 1e-2
    return found


# PEFT still asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("family", ["llava", "llava-gqa", "qwen2_vl", "gemma3"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_peft_loads_the_adapter_and_agrees_with_the_plugin(
    tmp_path: Path, family: str, strength: float
) -> None:
    model, inputs = deepcopy(tiny.build(family)), tiny.inputs(family, (5, 3))
    gains = gains_of(model)
    wanted = expected(model, inputs, gains, strength)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_adapter(gains, tmp_path / "adapter", model, strength=strength)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(adapted, inputs), wanted, atol=1e-6, rtol=0)


def test_bake_can_write_an_adapter(tmp_path: Path) -> None:
    gains = gains_of(vlmheads.Captioner.from_pretrained("embedded", ()).model)
    gains.save(tmp_path / "gains.safetensors")
    out = tmp_path / "adapter"
    arguments = ["bake", "embedded", str(tmp_path / "gains.safetensors"), str(out), "--adapter"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_what_is_no_gain_of_this_model_is_refused(tmp_path: Path) -> None:
    model = tiny.build("llava")
    geometry = examine(model).geometry
    ones = torch.ones(1, geometry.layers, geometry.heads)
    with pytest.raises(VlmHeadsError, match="a head map of 'vhd'"):
        save_adapter(HeadMap(ones, geometry, "vhd"), tmp_path, model)
    with pytest.raises(VlmHeadsError, match="was made for"):
        save_adapter(gains_of(tiny.build("qwen2_vl")), tmp_path, model)
    with pytest.raises(VlmHeadsError, match=r"gains of shape \[2, 2\]"):
        save_adapter(torch.ones(2, 2), tmp_path, model)
    with pytest.raises(VlmHeadsError, match="not finite"):
        save_adapter(ones[0] * torch.nan, tmp_path, model)
    with pytest.raises(VlmHeadsError, match="all 1"):
        save_adapter(ones[0], tmp_path, model)
