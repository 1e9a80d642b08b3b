"""No plugin makes the device wait for the host while it decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import tiny
import torch
from active import contract_plugins, make
from torch import Tensor
from waiting import watched

from vlmheads import attach
from vlmheads.plugin import Plugin
from vlmheads.runtime.request import Request

LENGTHS = (3, 7)


def waits(plugin: Plugin, **options: Any) -> list[str]:
    """What waits in the decoding steps of a padded batch under a plugin."""
    model = tiny.build("llava", "sdpa")
    inputs = tiny.inputs("llava", LENGTHS)
    settings = {"max_new_tokens": 4, "do_sample": False} | options
    with attach(model, plugin), watched(model) as found:
        model.generate(**inputs, **settings)
    return sorted(set(found))


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("name", contract_plugins())
def test_no_plugin_waits_for_the_device(name: str, beams: int) -> None:
    assert waits(make(name, "llava"), num_beams=beams) == []


@dataclass(frozen=True)
class Waiting(Plugin):
    """Do one of the things that wait, a token."""

    name: ClassVar[str] = "waiting"
    kind: str = ""

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        mask = logits > 0
        match self.kind:
            case "item":
                logits[0, 0].item()
            case "branch" if mask.any():
                pass
            case "mask":
                logits[mask]
            case "where":
                torch.where(mask)
            case "list":
                logits.tolist()
            case "home":
                logits.cpu()
            case "numbers":
                logits + torch.tensor([1.0])
            case "equal":
                torch.equal(logits, logits)
        return logits


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("item", "_local_scalar_dense"),
        ("branch", "_local_scalar_dense"),
        ("mask", "boolean mask"),
        ("where", "nonzero"),
        ("list", "tolist"),
        ("home", "cpu"),
        ("numbers", "tensor"),
        ("equal", "equal"),
    ],
)
def test_what_waits_is_found(kind: str, word: str) -> None:
    found = waits(Waiting(kind=kind))
    assert len(found) == 1
    assert word in found[0]
    assert "test_no_waiting.py" in found[0]
