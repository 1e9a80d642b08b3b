"""Attention sinks and dormant heads against their formulas, and what a long prompt costs."""

from __future__ import annotations

from typing import Any

import pytest
import slow
import tiny
import torch
import transformers as t
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from vlmheads import VlmHeadsError
from vlmheads.detect import attention_sinks, visual_sinks
from vlmheads.grounding import grounding


def slow_parts(model: Any, row: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Attention [H, S, S] and head outputs [S, H, D] of each layer."""
    maps: list[Tensor] = []
    heads: list[Tensor] = []

    def keep(_: int, weights: Tensor) -> Tensor:
        maps.append(weights)
        return weights

    def listen(_: int, outputs: Tensor) -> Tensor:
        heads.append(outputs)
        return outputs

    slow.Slow(model, slow.Edits(weights=keep, heads=listen)).prompt(row)
    return maps, heads


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("tokens", [4, 64])
def test_alpha_and_dormancy_are_those_of_the_formulas(family: str, tokens: int) -> None:
    model, lengths = tiny.build(family), (9, 3)
    found = attention_sinks(model, tiny.inputs(family, lengths), tokens=tokens)
    shares = []
    for index in range(2):
        row = tiny.row(family, lengths, index)
        maps, heads = slow_parts(model, row)
        length = row["input_ids"].shape[1]
        limit = min(tokens, length)
        above = torch.zeros(found.alpha.shape[-1])
        for layer in range(4):
            norms = heads[layer].square().sum(-1).sqrt()
            loud = (norms / norms.mean(dim=1, keepdim=True)).mean(dim=0)
            torch.testing.assert_close(
                found.loudness.values[index, layer].double(), loud, atol=1e-5, rtol=0
            )
            for head in range(4):
                weights = maps[layer][head].tolist()
                first = sum(line[0] for line in weights) / length
                seen = float(found.first.values[index, layer, head])
                assert seen == pytest.approx(first, abs=1e-5)
                for k in range(1, limit + 1):
                    drawn = sum(weights[i - 1][k - 1] for i in range(k, limit + 1))
                    alpha = drawn / (limit - k + 1)
                    seen = float(found.alpha[index, layer, head, k - 1])
                    assert seen == pytest.approx(alpha, abs=1e-5)
                    above[k - 1] += (alpha > 0.3) / 16
        shares.append(above)
    torch.testing.assert_close(found.metric(), torch.stack(shares))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_padded_batch_is_measured_as_its_rows_on_every_family(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3)
    together = attention_sinks(model, tiny.inputs(family, lengths))
    for index in range(2):
        alone = attention_sinks(model, tiny.row(family, lengths, index))
        size = alone.alpha.shape[-1]
        torch.testing.assert_close(
            together.alpha[index, ..., :size], alone.alpha[0], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            together.loudness.values[index], alone.loudness.values[0], atol=1e-4, rtol=0
        )


def test_a_head_that_looks_at_the_first_token_alone_is_dormant() -> None:
    found = attention_sinks(tiny.build("llava"), tiny.inputs("llava"))
    first = found.first.values
    middle = float(first.median())
    assert torch.equal(found.dormant(middle), first > middle)
    quiet = found.dormant(middle, norm=1.0)
    assert torch.equal(quiet, (first > middle) & (found.loudness.values < 1))
    assert not found.dormant(1.0).any()


def test_no_tokens_are_refused() -> None:
    with pytest.raises(VlmHeadsError, match="tokens=0"):
        attention_sinks(tiny.build("llava"), tiny.inputs("llava"), tokens=0)


def long_model() -> tuple[t.PreTrainedModel, dict[str, Tensor]]:
    """A narrow LLaVA of 32 layers and a prompt of 2,880 tokens, 2,304 of them image."""
    text = tiny.TEXT | {"num_hidden_layers": 32, "hidden_size": 64, "head_dim": 32}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    text |= {"intermediate_size": 172, "max_position_embeddings": 4096}
    vision = tiny.VISION | {"image_size": 192, "patch_size": 4}
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**vision),
        text_config=t.LlamaConfig(**text),
        image_token_id=tiny.IMAGE,
    )
    model = t.LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    ids = torch.full((1, 2880), 5)
    ids[0, 35 : 35 + 48 * 48] = tiny.IMAGE
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return model, inputs | {"pixel_values": torch.zeros(1, 3, 192, 192)}


def peak(run: Any) -> int:
    """The most bytes that tensors made during a call hold at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = most = 0
    events = seen.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_a_long_prompt_on_32_layers_takes_little_more_memory_than_its_prefill() -> None:
    model, inputs = long_model()
    with torch.no_grad():
        plain = peak(lambda: model(**inputs, logits_to_keep=1))
    for measure in (attention_sinks, visual_sinks):
        assert peak(lambda measure=measure: measure(model, inputs)) < 1.1 * plain
    targets = torch.full((1, 128), 7)
    assert peak(lambda: grounding(model, inputs, targets)) < 1.1 * plain
