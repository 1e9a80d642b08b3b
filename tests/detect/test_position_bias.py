"""Attention on the first of two images, against a slow decoder, and what answers name."""

from __future__ import annotations

import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads import VlmHeadsError
from vlmheads.detect.position_bias import Swapped, order_preference

IDS = [5, *[tiny.IMAGE] * 4, 9, *[tiny.IMAGE] * 4, 11, 12, 13]


def order(seeds: tuple[int, int]) -> dict[str, Tensor]:
    pixels = [tiny.inputs("llava", (5,), seed=seed)["pixel_values"][0] for seed in seeds]
    ids = torch.tensor([IDS])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.stack(pixels)}  # fmt: skip


def by_hand(seeds: tuple[int, int]) -> Tensor:
    """f / (f + s) of each layer and head."""
    model, weights = tiny.build("llava"), list[Tensor]()

    def keep(layer: int, value: Tensor) -> Tensor:
        weights.append(value)
        return value

    decoder = slow.Slow(model, slow.Edits(weights=keep))
    given = order(seeds)
    hidden = decoder.weights["embed_tokens.weight"][given["input_ids"][0]]
    for image, start in ((0, 1), (1, 6)):
        one = {"pixel_values": given["pixel_values"][image : image + 1]}
        hidden[start : start + 4] = slow.image_features(model, one)
    decoder.forward(hidden)
    text = [layer[:, 10:] for layer in weights]
    first = torch.stack([layer[:, :, 1:5].sum(dim=(1, 2)) for layer in text])
    second = torch.stack([layer[:, :, 6:10].sum(dim=(1, 2)) for layer in text])
    return first / (first + second)


def test_a_head_prefers_the_first_image_in_both_orders() -> None:
    count = torch.tensor([4])
    orders = [(order((1, 2)), count), (order((2, 1)), count)]
    found = order_preference(tiny.build("llava"), orders)
    expected = (by_hand((1, 2)) + by_hand((2, 1))) / 2 - 0.5
    torch.testing.assert_close(found.mean().double(), expected, atol=1e-5, rtol=0)
    same = order_preference(tiny.build("llava"), orders[::-1])
    torch.testing.assert_close(same.values, found.values)


def test_prompts_of_one_image_are_refused() -> None:
    one = (tiny.inputs("llava"), torch.tensor([4]))
    with pytest.raises(VlmHeadsError, match="two images in each prompt"):
        order_preference(tiny.build("llava"), [one, one])
    with pytest.raises(VlmHeadsError, match="1 orders"):
        order_preference(tiny.build("llava"), [one])


def test_what_is_named_is_counted_by_the_place_of_its_image() -> None:
    only = ({"dog", "cat"}, {"car"})
    # In the given order both dogs and cats are named, swapped only the car, which is first there.
    found = Swapped(only, ({"dog", "cat"}, {"car"}), (0, 1))
    assert (found.at_first, found.at_second, found.follows_order) == (1.0, 0.0, True)
    steady = Swapped(only, ({"dog", "car"}, {"dog", "car"}), (0, 0))
    assert (steady.at_first, steady.at_second, steady.follows_order) == (0.75, 0.75, False)
    assert Swapped(only, (set(), set()), (None, 1)).follows_order is None
    assert Swapped((set(), {"car"}), ({"car"}, set()), (1, None)).at_second == 1.0
