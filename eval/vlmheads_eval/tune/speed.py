"""What a caption costs under a setting, in plain captions."""

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from vlmheads.images import ImageLike
from vlmheads.plugin import Plugin

REPEATS = 3


def speed_ratios(
    captioner: Any,
    images: Sequence[ImageLike],
    prompt: str,
    settings: Mapping[str, tuple[Plugin, ...]],
    max_new_tokens: int,
) -> dict[str, float]:
    """Return the time of a batch under each setting over that of the plain model.

    The settings take turns with the plain model, so that what else the machine does falls on both;
    the ratio is the median of the turns.

    Args:
        captioner: the model, with its processor.
        images: one batch.
        prompt: what is asked about each.
        settings: name -> plugins.
        max_new_tokens: token limit of captions.
    """
    inputs = captioner.prepare(images, prompt)
    turns: dict[str, list[float]] = {name: [] for name in settings}

    def spent(plugins: tuple[Plugin, ...]) -> float:
        clock = time.monotonic()
        captioner.generate(
            dict(inputs), plugins=plugins, max_new_tokens=max_new_tokens, do_sample=False
        )
        return time.monotonic() - clock

    for _ in range(REPEATS):
        plain = spent(())
        for name, plugins in settings.items():
            turns[name].append(spent(plugins) / plain)
    return {name: median(ratios) for name, ratios in turns.items()}
