"""CICD against its formulas, in float64 with two streams by hand."""

from __future__ import annotations

import math
from typing import Any

import agree
import pytest
import streams
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.cicd import CICD, divergence

import vlmheads
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 4, 4)


def pool(count: int = 3, size: int = 16, same: bool = False) -> Learned:
    generator = torch.Generator().manual_seed(6)
    pixels = torch.randn(count, 3, size, size, generator=generator)
    pixels = pixels[:1].expand_as(pixels) if same else pixels
    return Learned("cicd", {"pixels": pixels}, GEOMETRY)


def shannon(one: Tensor, other: Tensor) -> float:
    """Jensen-Shannon divergence, term by term."""
    total = 0.0
    for p, q in zip(one.softmax(-1).tolist(), other.softmax(-1).tolist(), strict=True):
        m = (p + q) / 2
        total += (p * math.log(p / m) + q * math.log(q / m)) / 2
    return total


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llava", {"tau": 0.0}),
        ("llava", {"tau": 0.022}),
        ("llava-gqa", {"alpha": 0.5, "cutoff": 0.0, "tau": 0.0}),
        ("llava-gqa", {"tau": 0.04}),
    ],
)
def test_the_next_token_is_contrasted_where_the_images_disagree(
    family: str, options: dict[str, Any]
) -> None:
    values = {"alpha": 1.0, "cutoff": 0.1, "tau": 0.05} | options
    acted = []

    def combine(_: int, one: Tensor, other: Tensor) -> Tensor:
        acted.append(shannon(one, other) > values["tau"])
        edited = (1 + values["alpha"]) * one - values["alpha"] * other
        return streams.cut(edited, one, values["cutoff"]) if acted[-1] else one

    made = pool(same=True)
    row = tiny.inputs(family) | {"pixel_values": made.values["pixels"][:1]}
    expected = streams.decode(family, combine, row)
    streams.assert_plugin_is(CICD(pool=made, **options), family, expected)
    assert set(acted) == ({True} if not values["tau"] else {True, False})


def test_a_gate_that_never_opens_changes_no_bit() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    plain, found = (
        agree.generate(model, row, plugin)
        for plugin in (CICD.neutral(), CICD(pool=pool(), tau=0.7))
    )
    assert plain[0] == found[0]
    torch.testing.assert_close(found[1], plain[1], atol=1e-5, rtol=0)


def test_the_divergence_is_that_of_the_formula() -> None:
    one, other = torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(2))
    assert float(divergence(one, other)) == pytest.approx(shannon(one[0], other[0]), abs=1e-6)
    assert float(divergence(one, one)) == pytest.approx(0, abs=1e-6)
    apart = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    assert float(divergence(*apart)) == pytest.approx(math.log(2), abs=1e-6)


def other_images(pixels: Tensor, plugin: CICD) -> Tensor:
    changed = plugin.streams[0].change({"pixel_values": pixels})
    assert changed is not None
    found: Tensor = changed["pixel_values"]
    return found


def test_an_image_gets_the_same_other_one_in_any_batch_and_never_itself() -> None:
    made = pool(5)
    images = made.values["pixels"]
    for seed in range(6):
        plugin = CICD(pool=made, seed=seed)
        together = other_images(images, plugin)
        for image, other in zip(images, together, strict=True):
            assert torch.equal(other_images(image[None], plugin)[0], other)
            assert not torch.equal(image, other)
            assert any(torch.equal(other, one) for one in images)
    several = {tuple(other_images(images[:1], CICD(pool=made, seed=s))[0, 0, 0].tolist())
               for s in range(20)}  # fmt: skip
    assert len(several) > 1


def test_images_of_another_size_are_resized() -> None:
    found = other_images(torch.randn(2, 3, 16, 16), CICD(pool=pool(size=24)))
    assert found.shape == (2, 3, 16, 16)


@pytest.mark.parametrize(("made", "match"), [(None, "without pool,"), (pool(1), "one image")])
def test_too_small_a_pool_is_refused(made: Learned | None, match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), CICD(pool=made))


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "mistral3"])
def test_images_without_a_fixed_size_are_refused(family: str) -> None:
    from active import make

    model = tiny.build(family)
    with (
        vlmheads.attach(model, make("cicd", family)),
        pytest.raises(vlmheads.VlmHeadsError, match="fixed size"),
    ):
        model.generate(**tiny.inputs(family), max_new_tokens=2)
