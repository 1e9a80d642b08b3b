"""Models that accelerate prepared or spread, attached before or after.

tests/core/test_captioner.py captions with offloaded weights; tests/eval/predict/test_model.py and
tests/jobs/test_resume.py run two processes of `accelerate launch`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import accelerate
import pytest
import tiny
import torch
from examples import HeadScaler, HiddenAdder, LogitsShifter, RowReweighter
from torch import Tensor

from vlmheads import Plugin, attach

PLUGINS = [HeadScaler(), RowReweighter(), HiddenAdder(), LogitsShifter()]


def spread(model: Any, folder: Path) -> Any:
    """Keep the language model's weights on the disk, from where hooks bring them layer by layer."""
    parts = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
    places = dict.fromkeys(parts, "cpu") | {"model.language_model": "disk"}
    return accelerate.dispatch_model(
        model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True
    )


def offloaded(model: Any, folder: Path) -> Any:
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def prepared(model: Any, folder: Path) -> Any:
    return accelerate.Accelerator(cpu=True).prepare(model)


@torch.no_grad()
def scores(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits [T, V] of three greedy tokens."""
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    wanted = {"return_dict_in_generate": True, "output_logits": True}
    return torch.stack(model.generate(**inputs, **options, **wanted).logits)[:, 0]


@pytest.mark.parametrize("first", ["attached first", "accelerate first"])
@pytest.mark.parametrize("placed", [spread, offloaded, prepared])
@pytest.mark.parametrize("plugin", PLUGINS, ids=str)
def test_plugins_act_wherever_accelerate_keeps_the_weights(
    plugin: Plugin, placed: Any, first: str, tmp_path: Path
) -> None:
    plain, inputs = tiny.build("llava"), tiny.inputs("llava")
    before = scores(plain, inputs)
    with attach(plain, plugin):
        expected = scores(plain, inputs)
    model = copy.deepcopy(plain)
    if first == "accelerate first":
        model = placed(model, tmp_path)
        attachment = attach(model, plugin)
    else:
        attachment = attach(model, plugin)
        model = placed(model, tmp_path)
    assert torch.equal(scores(model, inputs), expected)
    attachment.detach()
    assert torch.equal(scores(model, inputs), before)
    assert not torch.equal(before, expected)
