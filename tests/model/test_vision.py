"""What a vision encoder is given: every tensor of pixels, and no video beside it."""

from __future__ import annotations

import pytest
import tiny
import torch

from vlmheads import VlmHeadsError
from vlmheads.model.anatomy import examine
from vlmheads.model.vision import image_inputs, pixel_names
from vlmheads.runtime.streams import Stream


def test_every_tensor_of_pixels_is_found_and_changed() -> None:
    given = {
        "pixel_values": torch.ones(1, 3),
        "high_res_pixel_values": torch.ones(2, 3),
        "pixel_values_local": torch.ones(1, 2),
        "pixel_attention_mask": torch.ones(1, 3).bool(),
        "image_sizes": torch.tensor([[3, 3]]),
        "num_local_patches": [1],
    }
    names = ("pixel_values", "high_res_pixel_values", "pixel_values_local")
    assert pixel_names(given) == names
    changed = Stream("negative", pixels=torch.neg).change(given)
    assert changed is not None
    assert all(bool((changed[name] == -1).all()) for name in names)
    assert all(changed[name] is given[name] for name in given if name not in names)


def test_a_video_next_to_an_image_is_refused_by_name() -> None:
    anatomy, row = examine(tiny.build("llava")), tiny.inputs("llava")
    assert "pixel_values" in image_inputs(anatomy, row)
    with pytest.raises(VlmHeadsError, match="a prompt with a video"):
        image_inputs(anatomy, row | {"pixel_values_videos": row["pixel_values"]})
    with pytest.raises(VlmHeadsError, match="came without pixels"):
        image_inputs(anatomy, {"input_ids": row["input_ids"]})
