"""Run plugins of sites on tiny models, and compare what comes of it."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from torch import Tensor

from vlmheads import Plugin, attach

LENGTHS = (3, 7)
TOKENS = 4
FAMILIES = ("llava-gqa", "qwen2_5_vl", "gemma3")
UNSAID = [tiny.IMAGE, tiny.VIDEO, 57, 58, 59]

Result = tuple[Tensor, Tensor]


def run(model: Any, inputs: dict[str, Tensor], *plugins: Plugin, **options: Any) -> Result:
    """New tokens [B, N] and the logits [N, B, V] that they came from."""
    torch.manual_seed(5)
    attachment = attach(model, list(plugins)) if plugins else None
    try:
        output = model.generate(
            **inputs,
            **({"do_sample": False} | options),
            max_new_tokens=TOKENS,
            suppress_tokens=UNSAID,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        if attachment is not None:
            attachment.detach()
    return output.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(output.logits)


def same(one: Result, other: Result) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def close(one: Tensor, other: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=1e-6)
