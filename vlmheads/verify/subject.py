"""The model that is checked, its inputs, and what it does with them, plain or under plugins."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import LogitsProcessorList

from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.plugin import Plugin
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attachment import attach

TOKENS = 8
PROMPTS = ("Describe the image.", "What is in the picture? Name every object that you can see.")
ROWS = ("row 0", "row 1")


def pictures() -> tuple[Image.Image, Image.Image]:
    """Draw two pictures of different sizes: a disc before a gradient, and bars."""
    square = Image.linear_gradient("L").resize((336, 336)).convert("RGB")
    ImageDraw.Draw(square).ellipse((90, 60, 250, 220), fill=(200, 40, 30))
    wide = Image.new("RGB", (448, 224), (40, 90, 200))
    draw = ImageDraw.Draw(wide)
    for index in range(4):
        draw.rectangle((30 + 110 * index, 40, 80 + 110 * index, 200), fill=(250, 220, 60 * index))
    return square, wide


def prepare(model: Any, processor: Any) -> dict[str, Any]:
    """Make inputs of the two pictures and prompts: "row 0" and "row 1" alone, and "batch".

    Args:
        model: names device and dtype.
        processor: with a chat template, padding on the left.
    """
    chats = []
    for picture, prompt in zip(pictures(), PROMPTS, strict=True):
        content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
        chats.append([{"role": "user", "content": content}])

    def made(chosen: list[Any]) -> Any:
        inputs = processor.apply_chat_template(
            chosen,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return inputs.to(model.device, dtype=model.dtype)

    return {ROWS[0]: made(chats[:1]), ROWS[1]: made(chats[1:]), "batch": made(chats)}


class _Follow:
    """A logits processor that makes generate() write tokens [B, N] that were chosen before."""

    def __init__(self, tokens: Tensor, start: int) -> None:
        self.tokens, self.start = tokens, start

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        step = ids.shape[1] - self.start
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter(1, self.tokens[:, step : step + 1], 0.0)


@dataclass(eq=False)
class Subject:
    """A model with two prompts, alone and as a left-padded batch.

    Every run writes the tokens that the plain model chose for each row alone, so that the logits of
    two runs can be compared step by step, also where a rounding error would have chosen otherwise.

    Args:
        model: a transformers model for image-text-to-text generation.
        inputs: "row 0", "row 1" and "batch" -> arguments of generate().
        tokens: new tokens in each run.
    """

    model: Any
    inputs: Mapping[str, Any]
    tokens: int = TOKENS
    _said: dict[str, Tensor] = field(default_factory=dict)
    _plain: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def anatomy(self) -> Anatomy:
        """The parts of the model."""
        return examine(self.model)

    def said(self, name: str) -> Tensor:
        """Tokens [B, N] that the plain model chose, each row alone."""
        if name == "batch":
            return torch.cat([self.said(row) for row in ROWS])
        if name not in self._said:
            output = self._generate(
                self.inputs[name], suppress_tokens=list(self.anatomy.visual_ids)
            )
            self._said[name] = output.sequences[:, -self.tokens :]
        return self._said[name]

    def plain(self, name: str) -> Tensor:
        """Logits [N, B, V] of the plain model, before anything was attached."""
        if name not in self._plain:
            self._plain[name] = self.run(name)
        return self._plain[name]

    def run(self, name: str, *plugins: Plugin) -> Tensor:
        """Return logits [N, B, V] under plugins, or of the model as it is now."""
        with attach(self.model, plugins) if plugins else nullcontext():
            return self.follow(self.inputs[name], self.said(name))

    def follow(self, inputs: Mapping[str, Any], tokens: Tensor, *, images: bool = True) -> Tensor:
        """Return logits [N, B, V] of a generation that writes `tokens` [B, N]."""
        processor = _Follow(tokens, inputs["input_ids"].shape[1])
        # Without images, a model that hands embeddings to another one cannot run itself.
        model = self.model if images else self.anatomy.generator
        processors = LogitsProcessorList([processor])
        output = self._generate(inputs, model=model, logits_processor=processors)
        return torch.stack(output.logits)

    def text(self, name: str) -> dict[str, Tensor]:
        """Return the inputs of one row with its image tokens deleted."""
        given = self.inputs[name]
        ids = given["input_ids"]
        keep = ~self.anatomy.is_visual(ids)[0]
        return {
            key: value[:, keep]
            for key, value in given.items()
            if isinstance(value, Tensor) and value.shape == ids.shape
        }

    def seconds(self, *plugins: Plugin) -> float:
        """Time one generation of the first row."""
        self.said(ROWS[0])
        with attach(self.model, plugins) if plugins else nullcontext():
            self._wait()
            start = time.perf_counter()
            self.follow(self.inputs[ROWS[0]], self.said(ROWS[0]))
            self._wait()
            return time.perf_counter() - start

    def _wait(self) -> None:
        """Wait until a GPU has done what it was asked."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)

    @torch.no_grad()
    def _generate(self, inputs: Mapping[str, Any], *, model: Any = None, **options: Any) -> Any:
        return (model or self.model).generate(
            **inputs,
            **options,
            max_new_tokens=self.tokens,
            min_new_tokens=self.tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )


def gap(one: Tensor, other: Tensor) -> float:
    """How far logits [N, B, V] are from others: the largest over steps and rows of RMS error / std.

    Both are centred first, since a constant changes no probability. Tokens that a model excludes
    count only where one side does not; then, or where something is not a number, it is infinity.
    """
    low = torch.finfo(torch.float32).min / 2
    kept = other > low
    if not torch.equal(kept, one > low):
        return torch.inf
    count = kept.sum(dim=-1, keepdim=True)

    def centred(logits: Tensor) -> Tensor:
        values = at_least_float32(logits).where(kept, 0)
        return (values - values.sum(dim=-1, keepdim=True) / count).where(kept, 0)

    error, spread = centred(one) - centred(other), centred(other)
    found = error.norm(dim=-1) / spread.norm(dim=-1)
    return torch.inf if bool(found.isnan().any()) else float(found.max())
