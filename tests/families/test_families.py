"""The short form of the sweep, one plugin for each kind of hook; and what is refused by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from build import entries
from expected import unexpected
from inputs import row_of
from report import judge
from table import ROWS
from torch import nn

from vlmheads import VlmHeadsError
from vlmheads.model.anatomy import examine
from vlmheads.model.families import family_of

# Every hook at once and nothing done, then rows, streams, hidden states and logits.
CHECKS = ("attach", "heads", "rows", "text only", "unembed", "edit residual", "edit mlp")
TYPES = [name for name in ROWS if name.partition("+")[0] in entries() and not row_of(name).why]
WITHOUT = [name for name in entries() if row_of(name).why]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", TYPES)
def test_a_family_is_served_or_refused(model_type: str) -> None:
    found = judge(model_type, CHECKS)
    if "ModuleNotFoundError" in found["model"]:
        pytest.skip(found["model"])
    if found["model"].startswith("none"):
        assert family_of(model_type).refusal, found["model"]
        return
    assert not (wrong := unexpected(model_type, found)), "\n".join(wrong)


@pytest.mark.parametrize("model_type", WITHOUT)
def test_what_has_no_image_tokens_or_no_text_is_refused_with_the_reason(model_type: str) -> None:
    model: Any = nn.Module()
    model.config = SimpleNamespace(model_type=model_type)
    with pytest.raises(VlmHeadsError) as error:
        examine(model)
    reasons = ("encoder-decoder", "cross-attention", "no image tokens", "by a mask", "text model")
    reasons = (*reasons, "proteins", "actions", "diffusion")
    assert any(reason in error.value.seen for reason in reasons), error.value.seen


@pytest.mark.filterwarnings("ignore")
def test_llama_4_still_cannot_run() -> None:
    found = judge("llama4", ())
    assert "image_outputs" in found["model"], (
        f"transformers {transformers.__version__} runs Llama 4: take its refusal out of "
        f"vlmheads/model/families.py, and let the sweep look at it ({found['model']})"
    )
