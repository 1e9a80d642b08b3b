"""How a model is loaded: where to, with which attention, and with packed weights."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from vlmheads import Captioner, VlmHeadsError
from vlmheads.model import loading
from vlmheads.model.loading import load_model, locate


def test_a_model_that_is_spread_says_what_it_says_in_one_place() -> None:
    model, _ = load_model("embedded", device_map="auto")
    assert {part.device.type for part in model.parameters()} == {
        "cuda" if torch.cuda.is_available() else "cpu"
    }


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_attention_is_the_one_that_was_asked_for(attn: str) -> None:
    captioner = Captioner.from_pretrained("embedded", (), attn=attn)
    assert captioner.model.config.text_config._attn_implementation == attn


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_packing_without_bitsandbytes_is_one_line() -> None:
    with pytest.raises(VlmHeadsError, match="needs bitsandbytes, which is not installed; pip"):
        load_model("embedded", quantization="bnb-4bit")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A checkpoint whose config says that bitsandbytes packed its weights."""
    folder = tmp_path / "packed"
    shutil.copytree(locate("embedded"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_packed_weights_are_not_packed_again(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: name)
    with pytest.raises(VlmHeadsError, match=r"whose weights are packed already \(bitsandbytes\)"):
        load_model(str(packed), quantization="bnb-4bit")


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_packed_weights_without_their_package_are_one_line(packed: Path) -> None:
    with pytest.raises(VlmHeadsError, match="requires bitsandbytes") as refusal:
        load_model(str(packed))
    assert "\n" not in str(refusal.value)
