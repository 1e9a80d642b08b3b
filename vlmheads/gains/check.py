"""Whether a baked checkpoint does what the attached plugins do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmheads.caption import PROMPT, Captioner
from vlmheads.model.loading import saved_dtype
from vlmheads.plugin import Plugin
from vlmheads.runtime.attachment import attach

IMAGES, TOKENS, SIZE = 3, 24, 224
# Differences of logits that are rounding: this share of what the plugins change, or this many
# units in the last place of the largest logit in the checkpoint's data type.
SHARE, ULPS = 0.05, 64


@dataclass(frozen=True)
class Check:
    """Logits of a few greedy captions of noise, in float32, step for step.

    Args:
        difference: the largest between checkpoint and attached plugins.
        effect: the largest between attached plugins and plain model.
        allowed: how much the rounding of the changed weights explains.
        same: captions that are the same, token for token.
        images: captions that were compared.
    """

    difference: float
    effect: float
    allowed: float
    same: int
    images: int

    @property
    def passed(self) -> bool:
        """Whether the checkpoint is explained by rounding, and the plugins do something at all."""
        return self.difference <= self.allowed and self.effect > 0


@torch.no_grad()
def check(model: str, baked: str | Path, plugins: Iterable[Plugin]) -> Check:
    """Compare a baked checkpoint with the model it was made from under the plugins.

    Both are loaded, one after the other.

    Args:
        model: what `baked` was made from.
        baked: the new checkpoint.
        plugins: what was baked in.

    Raises:
        VlmHeadsError: either cannot be loaded.
    """
    plugins = tuple(plugins)
    before = Captioner.from_pretrained(model, (), dtype="float32")
    attached = [_greedy(before, image, plugins) for image in _noise()]
    paths = [path for path, _ in attached]
    plain = [_along(before, image, path) for image, path in zip(_noise(), paths, strict=True)]
    del before
    after = Captioner.from_pretrained(str(baked), (), dtype="float32")
    found = [_along(after, image, path) for image, path in zip(_noise(), paths, strict=True)]
    wanted = [logits for _, logits in attached]
    effect = max(_gap(one, two) for one, two in zip(wanted, plain, strict=True))
    largest = max(float(one[one.isfinite()].abs().max()) for one in wanted)
    eps = torch.finfo(saved_dtype(str(baked))).eps
    return Check(
        difference=max(_gap(one, two) for one, two in zip(wanted, found, strict=True)),
        effect=effect,
        allowed=max(SHARE * effect, ULPS * eps * largest),
        same=sum(
            torch.equal(one.argmax(-1), two.argmax(-1))
            for one, two in zip(wanted, found, strict=True)
        ),
        images=len(wanted),
    )


def _noise() -> list[Image.Image]:
    values = np.random.default_rng(0).integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in values]


def _gap(one: Tensor, two: Tensor) -> float:
    """Return the largest difference of two sets of logits, where both allow a token at all."""
    return float((one - two).nan_to_num(0.0).abs().max())


def _greedy(
    captioner: Captioner, image: Image.Image, plugins: tuple[Plugin, ...]
) -> tuple[list[int], Tensor]:
    """Return the tokens of T greedy steps and their logits [T, V], with plugins attached."""
    with attach(captioner.model, plugins):
        return _generate(captioner, image)


def _along(captioner: Captioner, image: Image.Image, path: list[int]) -> Tensor:
    """Return the logits [T, V] of a model that is made to say T given tokens."""
    return _generate(captioner, image, path)[1]


def _generate(
    captioner: Captioner, image: Image.Image, path: list[int] | None = None
) -> tuple[list[int], Tensor]:
    inputs: dict[str, Any] = dict(captioner.prepare([image], PROMPT))
    start = inputs["input_ids"].shape[1]
    forced: dict[str, Any] = {}
    if path is not None:
        forced["prefix_allowed_tokens_fn"] = lambda _, ids: [path[len(ids) - start]]
    output = captioner.model.generate(
        **inputs,
        **forced,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = output.sequences[0, -TOKENS:].tolist()
    return tokens, torch.cat(output.logits).float().cpu()
