"""The models that benchmarks run on, each with a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers

from vlmheads.model.loading import load_model

IMAGE_TOKENS, TEXT_TOKENS = 576, 13


@dataclass(frozen=True)
class Bench:
    """A model, a prompt for it, how many tokens to generate, and other options of generate()."""

    name: str
    model: Any
    inputs: dict[str, torch.Tensor]
    new_tokens: int
    options: dict[str, Any] = field(default_factory=dict)


def embedded(folder: str, batch: int, new_tokens: int = 48) -> Bench:
    """The test-bench model on noise; its 64 image tokens and short texts show fixed costs most."""
    model, processor = load_model(folder)
    size = model.config.vision_config.image_size
    ids = torch.tensor([processor.tokenizer("USER: <image>\nDescribe the image.").input_ids])
    count = model.config.image_seq_length
    image = torch.full((1, count), model.config.image_token_id)
    at = int((ids[0] == model.config.image_token_id).nonzero()[0])
    ids = torch.cat([ids[:, :at], image, ids[:, at + 1 :]], dim=1).expand(batch, -1)
    ids = ids.to(model.device)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch, 3, size, size, generator=generator).to(model.device, model.dtype)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return Bench(f"embedded, batch {batch}", model, inputs, new_tokens)


def llava(layers: int, width: int, heads: int, batch: int, new_tokens: int, dtype: Any) -> Bench:
    """A random model with LLaVA-1.5's proportions: 576 image tokens and 13 of text."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=336,
            patch_size=14,
        ),
        text_config=transformers.LlamaConfig(
            hidden_size=width,
            intermediate_size=width * 43 // 16,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            vocab_size=32064,
        ),
        image_token_index=32000,
    )
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(place):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = transformers.LlavaForConditionalGeneration(config).eval()
        torch.set_default_dtype(before)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, 30000, (batch, TEXT_TOKENS), generator=generator)
    image = torch.full((batch, IMAGE_TOKENS), 32000)
    ids = torch.cat([text[:, :5], image, text[:, 5:]], dim=1).to(place)
    pixels = torch.randn(batch, 3, 336, 336, generator=generator).to(place, dtype)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return Bench(f"random {layers} layers x {width}, batch {batch}", model, inputs, new_tokens)


def benches(folder: str) -> dict[str, Callable[[], Bench]]:
    """The models to time on this machine, each built when its turn comes."""
    if torch.cuda.is_available():
        return {
            f"7b-{batch}": partial(llava, 32, 4096, 32, batch, 64, torch.bfloat16)
            for batch in (1, 8)
        }
    return {
        "embedded-1": partial(embedded, folder, 1),
        "embedded-8": partial(embedded, folder, 8),
        "random-1": partial(llava, 8, 512, 8, 1, 48, torch.float32),
        "random-8": partial(llava, 8, 512, 8, 8, 48, torch.float32),
    }
