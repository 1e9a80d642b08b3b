from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from vlmheads_demo.services.bench import looks_drawn, require_scene
from vlmheads_demo.services.captioning import parse_request
from vlmheads_demo.services.images import draw_scene
from vlmheads_demo.state import Model

from vlmheads import VlmHeadsError


def photograph(width: int = 640, height: int = 480) -> Image.Image:
    """Colours that change along the rows, as those of photographs do."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / 37 + a) * np.cos(y / 53 - a) for a in (0.0, 1.1, 2.3)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def test_scenes_are_told_from_photographs():
    for split in ("test", "counterfactual"):
        for number in range(20):
            image = draw_scene(f"{split}:{number}").image
            small = io.BytesIO()
            image.save(small, "JPEG", quality=80)
            assert looks_drawn(image)
            assert looks_drawn(Image.open(io.BytesIO(small.getvalue())))
            assert looks_drawn(image.resize((448, 448)))
            assert not looks_drawn(image.resize((448, 300)))
            assert not looks_drawn(image.convert("L"))
    assert not looks_drawn(photograph())
    assert not looks_drawn(photograph(480, 480))
    assert not looks_drawn(photograph(112, 112))


def test_a_test_bench_refuses_a_photograph_and_says_what_to_do(state, model):
    path = state.uploads / "holiday.png"
    photograph().save(path)
    with pytest.raises(VlmHeadsError, match="knows drawn scenes alone.*vlmheads demo --model"):
        parse_request(state, image=str(path))
    other = Model("llava", model.captioner, model.geometry)
    require_scene(other, photograph())
