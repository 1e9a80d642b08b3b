"""Pictures that the test-bench models know: drawn scenes. Others are refused, not misread."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads_demo.state import Model

SIDE = 112
# Share of the pixels that are like their row's median, in a scene. Over 800 scenes the lowest was
# 0.58, and 0.46 after JPEG compression; whole photographs are at 0.05 to 0.25.
LEAST = 0.42
# Differences between colours, and of brightness, that the noise of a scene allows.
_HUE, _BRIGHTNESS = 8, 18
# The least mean distance between the colours of a pixel; grey pictures are below it.
_COLOURED = 2.0


def require_scene(model: Model, image: Image.Image) -> None:
    """Refuse a photograph on a test-bench model, which would name some of its drawings in it.

    Raises:
        VlmHeadsError: the model is packaged, and the picture does not look like a drawn scene.
    """
    if model.packaged and not looks_drawn(image):
        raise VlmHeadsError(
            f"this looks like a photograph, and {model.name} is a test bench that knows drawn "
            "scenes alone: it would make things up",
            "one of the scenes",
            "for photographs, start the demo with another model, such as "
            "vlmheads demo --model llava-hf/llava-1.5-7b-hf",
        )


def looks_drawn(image: Image.Image) -> bool:
    """Whether a picture looks like a scene of the test bench: square, on a plain background.

    The background of a scene has one colour per row, and noise that is the same in red, green and
    blue.
    """
    if max(image.size) > 1.05 * min(image.size):
        return False
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)
    if (pixels.max(axis=2) - pixels.min(axis=2)).mean() < _COLOURED:
        return False
    red, green, blue = (pixels[..., colour] for colour in range(3))
    alike = _near(red - green, _HUE) & _near(green - blue, _HUE) & _near(green, _BRIGHTNESS)
    return bool(alike.mean() >= LEAST)


def _near(values: np.ndarray, distance: int) -> np.ndarray:
    near: np.ndarray = np.abs(values - np.median(values, axis=1, keepdims=True)) <= distance
    return near
