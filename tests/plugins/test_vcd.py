"""VCD against its formulas, in float64 with two streams by hand."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import streams
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.vcd import VCD, image_noise

import vlmheads


def noised(pixels: Tensor, step: int, seed: int) -> Tensor:
    """One image after diffusion, from the schedule as it is published."""
    betas = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64))
    betas = betas * (0.5e-2 - 1e-5) + 1e-5
    kept = torch.cumprod(1 - betas, dim=0)[step]
    noise = torch.randn(pixels.shape[1:], generator=torch.Generator().manual_seed(seed))
    return (kept.sqrt() * pixels[0] + (1 - kept).sqrt() * noise)[None]


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    "options", [{}, {"alpha": 0.5, "cutoff": 0.0, "step": 999, "seed": 4}, {"cutoff": 0.2}]
)
def test_the_next_token_is_contrasted_with_a_noised_image(
    family: str, options: dict[str, Any]
) -> None:
    values = {"alpha": 1.0, "cutoff": 0.1, "step": 500, "seed": 0} | options

    def combine(_: int, clear: Tensor, blurred: Tensor) -> Tensor:
        alpha = values["alpha"]
        return streams.cut((1 + alpha) * clear - alpha * blurred, clear, values["cutoff"])

    row = tiny.inputs(family)
    pixels = noised(row["pixel_values"], values["step"], values["seed"])
    expected = streams.decode(family, combine, row | {"pixel_values": pixels})
    streams.assert_plugin_is(VCD(**options), family, expected)


def test_the_same_seed_gives_the_same_answer_and_another_one_does_not() -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    first, second, third = (agree.generate(model, row, VCD(seed=seed), 2)[1] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "mistral3", "idefics3", "gemma3"])
def test_an_image_gets_its_noise_in_any_batch(family: str) -> None:
    alone = tiny.SPECS[family].images([5])
    together = tiny.SPECS[family].images([3, 5])
    both = image_noise(together, 0).expand(together["pixel_values"].shape)
    one = image_noise(alone, 0).expand(alone["pixel_values"].shape)
    assert torch.equal(both[-len(one) :], one)


def test_images_of_other_sizes_in_the_batch_change_no_noise() -> None:
    sizes = torch.tensor([[16, 24], [32, 32]])
    padded = image_noise({"pixel_values": torch.zeros(2, 3, 32, 32), "image_sizes": sizes}, 0)
    alone = image_noise({"pixel_values": torch.zeros(1, 3, 16, 24), "image_sizes": sizes[:1]}, 0)
    assert torch.equal(padded[:1, :, :16, :24], alone)


def test_tiles_that_pad_the_batch_stay_empty() -> None:
    pixels = torch.randn(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    pixels[0, 2] = 0
    changed = VCD().streams[0].change({"pixel_values": pixels})
    assert changed is not None
    assert (changed["pixel_values"] != pixels).flatten(2).any(dim=2).tolist() == [
        [True, True, False]
    ]


@settings(max_examples=10, deadline=None)
@given(alpha=st.floats(0, 10), cutoff=st.floats(0, 1), step=st.integers(0, 999))
def test_the_likeliest_token_is_never_cut_off(alpha: float, cutoff: float, step: int) -> None:
    plugin = VCD(alpha=alpha, cutoff=cutoff, step=step)
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    _, plain = agree.generate(model, row, VCD.neutral(), 1)
    _, logits = agree.generate(model, row, plugin, 1)
    assert not bool(logits.isnan().any())
    assert float(logits[0].max() - logits[0, plain[0].argmax()]) < 900


def test_a_prompt_without_pixels_is_refused() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    features = {"image": model.model.get_image_features(row.pop("pixel_values"))}
    with (
        vlmheads.attach(model, VCD()),
        pytest.raises(vlmheads.VlmHeadsError, match="without pixels"),
    ):
        model(**row, mm_encoder_outputs=features)
