"""Grounding of tokens against generation step by step, and against a slow decoder."""

from __future__ import annotations

from typing import Any

import pytest
import slow
import tiny
import torch
from torch import Tensor

import vlmheads
from vlmheads import VlmHeadsError
from vlmheads.detect import divergence_trace
from vlmheads.grounding import Grounding, grounding

LENGTHS = (5, 3)
TARGETS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])


def slow_stream(
    model: Any, row: dict[str, Tensor], tokens: list[int], *, images: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Heads [T, L, H, D], weights on the image [T, L, H, P] and log-probabilities [T], float64."""
    heads: list[Tensor] = []
    weights: list[Tensor] = []
    visual = slow.image_columns(model, row).nonzero()[:, 0]

    def hear(_: int, value: Tensor) -> Tensor:
        heads.append(value[-1])
        return value

    def see(_: int, value: Tensor) -> Tensor:
        weights.append(value[:, -1, visual] if images else value[:, -1, :0])
        return value

    decoder = slow.Slow(model, slow.Edits(heads=hear, weights=see))
    logits = [decoder.prompt(row, images=images)]
    logits += [decoder.token(token) for token in tokens[:-1]]
    said = torch.stack([line.log_softmax(-1)[at] for line, at in zip(logits, tokens, strict=True)])
    layers = model.config.text_config.num_hidden_layers
    return (
        torch.stack(heads).unflatten(0, (-1, layers)),
        torch.stack(weights).unflatten(0, (-1, layers)),
        said,
    )


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_grounding_is_what_two_separate_slow_streams_say(family: str) -> None:
    model = tiny.build(family)
    found = grounding(model, tiny.inputs(family, LENGTHS), TARGETS, patches=True)
    assert found.patches is not None
    for index in range(2):
        row, tokens = tiny.row(family, LENGTHS, index), TARGETS[index].tolist()
        heads, weights, seeing = slow_stream(model, row, tokens, images=True)
        without, _, blind = slow_stream(model, row, tokens, images=False)
        distance = (heads - without).square().sum(-1).sqrt()
        for one, other in (
            (found.divergence, distance),
            (found.patches, weights),
            (found.attention, weights.sum(-1)),
            (found.log_probability, seeing),
            (found.log_probability_without, blind),
            (found.token_divergence(2), distance.sort(dim=-1).values[..., -2:].sum(dim=(1, 2))),
        ):
            torch.testing.assert_close(one[index].double(), other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_grounding_is_what_generation_saw_token_by_token_on_every_family(family: str) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, LENGTHS)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    options["suppress_tokens"] = [tiny.IMAGE, tiny.VIDEO]
    trace = divergence_trace(model, inputs, k=2, **options)
    said = trace.sequences[:, -4:]
    scores = model.generate(
        **inputs, **options, output_logits=True, return_dict_in_generate=True
    ).logits
    expected = torch.stack(scores, dim=1).log_softmax(-1).gather(-1, said[..., None])[..., 0]
    found = grounding(model, inputs, said)
    torch.testing.assert_close(found.log_probability, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.divergence, trace.heads, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.token_divergence(2), trace.values, atol=1e-3, rtol=0)
    assert bool((found.attention > 0).all())


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_vl"])
def test_a_padded_batch_is_grounded_as_each_row_alone(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3)
    together = grounding(model, tiny.inputs(family, lengths), TARGETS, patches=True)
    for index in range(2):
        alone = grounding(
            model, tiny.row(family, lengths, index), TARGETS[index : index + 1], patches=True
        )
        for name in set(Grounding.__dataclass_fields__) - {"scores", "candidates"}:
            one, other = getattr(together, name)[index], getattr(alone, name)[0]
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_nothing_is_said_of_what_comes_after_the_end() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", LENGTHS)
    plain = grounding(model, inputs, TARGETS)
    model.generation_config.eos_token_id = 8
    try:
        found = grounding(model, inputs, torch.tensor([[7, 8, 8, 8], [11, 12, 13, 14]]))
    finally:
        model.generation_config.eos_token_id = None
    torch.testing.assert_close(found.divergence[0, :2], plain.divergence[0, :2])
    torch.testing.assert_close(found.log_probability[1], plain.log_probability[1])
    for values in (found.divergence, found.attention, found.log_probability):
        assert not values[0, 2:].any()
        assert bool(values[1].any())


def test_a_row_without_an_image_has_equal_streams_and_no_divergence() -> None:
    model, batch = tiny.build("llava"), tiny.inputs("llava", (5, 5))
    batch["input_ids"][1][batch["input_ids"][1] == tiny.IMAGE] = 7
    batch["pixel_values"] = batch["pixel_values"][:1]
    found = grounding(model, batch, TARGETS)
    assert bool((found.divergence[0] > 0).all())
    assert not found.divergence[1].any()
    assert not found.attention[1].any()
    torch.testing.assert_close(found.log_probability[1], found.log_probability_without[1])


def test_what_cannot_be_grounded_is_refused_by_name() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", LENGTHS)
    with pytest.raises(VlmHeadsError, match=r"targets of shape \[2\]"):
        grounding(model, inputs, TARGETS[:, 0])
    with (
        vlmheads.attach(model, "vhr"),
        pytest.raises(VlmHeadsError, match="with plugins attached"),
    ):
        grounding(model, inputs, TARGETS)
    with pytest.raises(VlmHeadsError, match="hold image tokens"):
        grounding(model, inputs, torch.full_like(TARGETS, tiny.IMAGE))
    inputs["input_ids"][0, 0] = tiny.IMAGE
    with pytest.raises(VlmHeadsError, match=r"prompts of \[5, 4\] image tokens"):
        grounding(model, inputs, TARGETS, patches=True)
    with pytest.raises(VlmHeadsError, match="k=5"):
        Grounding(*[torch.ones(1, 1, 1, 4)] * 4).token_divergence(5)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_grounding_leaves_the_position_offsets_of_m_rope_alone(family: str) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, LENGTHS)
    model.generate(**inputs, max_new_tokens=1, do_sample=False)
    before = model.model.rope_deltas.clone()
    grounding(model, inputs, TARGETS)
    assert torch.equal(model.model.rope_deltas, before)
