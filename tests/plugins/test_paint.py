"""PAINT against its formulas, in float64 on full attention maps of decoder and vision encoder."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import agree
import numpy as np
import pytest
import slow
import tiny
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.paint import PAINT, choose_patches

import vlmheads

PAIRS = [4, 2]


@cache
def model_with(kv_heads: int) -> Any:
    """A tiny LLaVA whose vision encoder has four layers and sixteen patches."""
    vision = tiny.VISION | {"num_hidden_layers": 4, "image_size": 32}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**(tiny.TEXT | {"num_key_value_heads": kv_heads})),
        image_token_id=tiny.IMAGE,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.LlavaForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.update(pad_token_id=0, eos_token_id=None, bos_token_id=1)
    return model.requires_grad_(False)


def inputs(seeds: list[int]) -> dict[str, Tensor]:
    """One row with as many images as seeds."""
    image = [tiny.IMAGE] * 16
    ids = torch.tensor([[3, 4, *[*image, 7] * len(seeds), 9, 12, 5]])
    pixels = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.stack(pixels),
    }


def chosen(model: Any, pixels: Tensor, ratio: float) -> tuple[set[int], set[int]]:
    """Local and summary patches of one image, from the attention maps of an eager encoder."""
    tower = deepcopy(model.model.vision_tower).double()
    tower.set_attn_implementation("eager")
    maps = tower(pixels[None].double(), output_attentions=True).attentions
    first = maps[0][0, :, 0, 1:].sum(dim=0).numpy()
    late = maps[-2][0, :, 0, 1:].sum(dim=0).numpy()
    low, high = np.percentile(late, 25), np.percentile(late, 75)
    summary = {j for j, value in enumerate(late) if value > high + 1.5 * (high - low)}
    best = sorted(range(len(first)), key=lambda j: -first[j])[: int(len(first) * ratio)]
    return set(best) - summary, summary


def raise_scores(columns: dict[int, float], layers: list[int]) -> Any:
    def edit(layer: int, scores: Tensor) -> Tensor:
        if layer in layers:
            scores = scores.clone()
            for head in range(len(scores)):
                for column, gain in columns.items():
                    score = float(scores[head, -1, column])
                    scores[head, -1, column] = score + gain * abs(score)
        return scores

    return edit


def both_kinds(model: Any) -> dict[str, Tensor]:
    """A row whose image has local and summary tokens."""
    rows = (inputs([seed]) for seed in range(50))
    return next(row for row in rows if all(chosen(model, row["pixel_values"][0], 0.25)))


@pytest.mark.parametrize("kv_heads", PAIRS)
def test_local_and_summary_tokens_are_raised_as_the_formulas_say(kv_heads: int) -> None:
    model = model_with(kv_heads)
    row = both_kinds(model)
    local, summary = chosen(model, row["pixel_values"][0], 0.25)
    columns = {2 + j: 0.9 for j in local} | {2 + j: 0.4 for j in summary}
    edits = slow.Edits(scores=raise_scores(columns, [0, 2, 3]))
    expected = slow.decode(model, row, edits)
    assert float((expected[1] - slow.decode(model, row)[1]).abs().max()) > 1e-3
    found = agree.generate(model, row, PAINT(alpha=0.9, beta=0.4, layers=(0, 2, 3)))
    agree.assert_same(expected, found)


def test_every_row_and_beam_has_the_tokens_of_its_own_images() -> None:
    model = model_with(2)
    rows = [inputs([1, 2]), inputs([3])]
    longest = rows[0]["input_ids"].shape[1]
    short = longest - rows[1]["input_ids"].shape[1]
    batch = {
        "input_ids": torch.cat(
            [rows[0]["input_ids"], torch.nn.functional.pad(rows[1]["input_ids"], (short, 0))]
        ),
        "attention_mask": torch.cat(
            [
                rows[0]["attention_mask"],
                torch.nn.functional.pad(rows[1]["attention_mask"], (short, 0)),
            ]
        ),
        "pixel_values": torch.cat([row["pixel_values"] for row in rows]),
    }
    options = {"num_beams": 3, "max_new_tokens": 5, "do_sample": False}
    with vlmheads.attach(model, PAINT(alpha=3.0, beta=1.0)):
        together = model.generate(**batch, **options)[:, longest:]
        alone = [model.generate(**row, **options)[0, -5:] for row in rows]
    assert together.tolist() == [tokens.tolist() for tokens in alone]


def test_guidance_is_off_by_default_and_that_of_pai_where_it_is_on() -> None:
    assert PAINT().streams == ()
    row = inputs([0])
    plain = agree.generate(model_with(2), row, PAINT(alpha=0.0, beta=0.0, gamma=1.3))
    pai = agree.generate(model_with(2), row, "pai:alpha=0.0,gamma=1.3")
    assert torch.equal(plain[1], pai[1])


def test_as_released_guidance_has_the_first_token_for_itself() -> None:
    row, model, options = inputs([0]), model_with(2), {"alpha": 3.0, "beta": 1.0, "gamma": 1.3}
    released = agree.generate(model, row, PAINT(form="release", **options), 3)[1]
    alone = agree.generate(model, row, PAINT(alpha=0.0, beta=0.0, gamma=1.3), 3)[1]
    assert torch.equal(released[0], alone[0])
    assert not torch.equal(released[1], alone[1])
    assert not torch.equal(agree.generate(model, row, PAINT(**options), 1)[1][0], alone[0])


@settings(max_examples=10, deadline=None)
@given(alpha=st.floats(0, 10), beta=st.floats(0, 10), ratio=st.floats(0, 1))
def test_rows_sum_to_one_whatever_the_options(alpha: float, beta: float, ratio: float) -> None:
    plugin = PAINT(alpha=alpha, beta=beta, ratio=ratio)
    for _, after in agree.rows_around(plugin, "llava").values():
        torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(after.weights.shape[:-1]))


def test_outliers_are_told_as_numpy_percentiles_tell_them() -> None:
    late = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 30]])
    local, summary = choose_patches(torch.tensor([[0.0, 1, 2, 3, 4, 5, 6, 7]]), late, 0.25)
    assert summary.tolist() == [[False] * 7 + [True]]
    assert local.tolist() == [[False] * 6 + [True, False]]


@pytest.mark.parametrize("family", ["internvl", "qwen2_vl", "llava_next"])
def test_a_model_without_one_cls_token_and_patch_a_token_is_refused(family: str) -> None:
    model = tiny.build(family)
    with (
        vlmheads.attach(model, PAINT()),
        pytest.raises(vlmheads.VlmHeadsError, match="CLS token|patches of its vision encoder"),
    ):
        model.generate(**tiny.inputs(family), max_new_tokens=1)
