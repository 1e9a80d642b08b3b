"""Prompt lookup that drafts tokens in the very first pass, behind the prompt."""

from __future__ import annotations

import pytest
import tiny
import torch
from active import STEPWISE, contract_plugins, make

import vlmheads

NAMES = [name for name in contract_plugins() if name not in STEPWISE]


@pytest.mark.parametrize("name", NAMES)
def test_tokens_drafted_behind_the_prompt_change_nothing(name: str) -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    again = torch.tensor([[7, 8, 9, 11, 7, 8, 9, 11, 7, 8]])
    ids = torch.cat([row["input_ids"], again], dim=1)
    inputs = row | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    lengths = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        with vlmheads.attach(model, make(name, "llava-gqa")):
            greedy = model.generate(**inputs, max_new_tokens=6, do_sample=False)
            lengths.clear()
            looked_up = model.generate(
                **inputs, max_new_tokens=6, do_sample=False, prompt_lookup_num_tokens=3
            )
    finally:
        hook.remove()
    assert lengths[0] > ids.shape[1], "nothing was drafted"
    assert greedy.tolist() == looked_up.tolist()


@pytest.mark.parametrize("name", STEPWISE)
def test_drafts_are_refused_by_what_goes_token_by_token(name: str) -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    ids = torch.cat([row["input_ids"], torch.tensor([[7, 8, 9, 11, 7, 8, 9, 11, 7, 8]])], dim=1)
    inputs = row | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with (
        vlmheads.attach(model, make(name, "llava-gqa")),
        pytest.raises(vlmheads.VlmHeadsError, match="tokens in one"),
    ):
        model.generate(**inputs, max_new_tokens=6, do_sample=False, prompt_lookup_num_tokens=3)
