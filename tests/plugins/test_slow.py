"""The slow decoder itself: it must agree with the model before methods are compared with it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import slow
import tiny
import torch
from torch import Tensor, nn


class _Norm(nn.Module):
    """RMS norm in the precision of its input; transformers' own drops to float32."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], self.weight, self.eps)


class _Rotary(nn.Module):
    """Cosines and sines in float64; transformers' own are float32."""

    def forward(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        speed = 1e4 ** -(torch.arange(4, dtype=torch.float64) / 4)
        angle = position_ids[..., None] * speed
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos(), angle.sin()


def _precise(family: str) -> Any:
    model = deepcopy(tiny.build(family)).double()  # sdpa, as eager's softmax is float32
    text = model.model.language_model
    text.rotary_emb = _Rotary()
    for module in [*text.modules()]:
        for name, child in module.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                setattr(module, name, _Norm(child.weight, child.variance_epsilon))
    return model


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_the_slow_decoder_is_the_model_in_float64(family: str) -> None:
    model, row = _precise(family), tiny.inputs(family)
    tokens, logits = slow.decode(tiny.build(family), row)
    ids = torch.cat([row["input_ids"], torch.tensor([tokens])], dim=1)
    expected = model(input_ids=ids, pixel_values=row["pixel_values"].double()).logits[0, -9:-1]
    assert expected.argmax(dim=-1).tolist() == tokens
    torch.testing.assert_close(expected, logits, atol=1e-10, rtol=0)


def test_without_images_the_slow_decoder_runs_the_text_alone() -> None:
    model, row = _precise("llava-gqa"), tiny.inputs("llava-gqa")
    text = row["input_ids"][:, row["input_ids"][0] != tiny.IMAGE]
    expected = model(input_ids=text).logits[0, -1]
    found = slow.Slow(tiny.build("llava-gqa")).prompt(row, images=False)
    torch.testing.assert_close(expected, found, atol=1e-10, rtol=0)


@pytest.mark.parametrize("point", ["scores", "weights", "heads", "mlp", "residual", "logits"])
def test_an_edit_at_every_point_reaches_the_logits(point: str) -> None:
    row = tiny.inputs("llava-gqa")
    edits = slow.Edits(**{point: lambda index, value: value * 1.01})
    _, plain = slow.decode(tiny.build("llava-gqa"), row, tokens=[3, 4])
    _, edited = slow.decode(tiny.build("llava-gqa"), row, edits, tokens=[3, 4])
    assert bool((plain != edited).any(dim=-1).all())
