"""Random models for a GPU: of the geometry of LLaVA-1.5-7B and Qwen2.5-VL-7B, or tiny ones."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from benches import Bench

# Text in front of an image, and after it.
BEFORE, AFTER = 5, 27
NEW_TOKENS = 16


def llava_config(tiny: bool, image_token: int = 32000, words: int = 32064) -> Any:
    """LLaVA-1.5-7B: 32 layers x 4096, a CLIP tower of 24 layers x 1024, 576 image tokens."""
    layers, width, heads = (4, 64, 4) if tiny else (32, 4096, 32)
    blocks, wide, many = (2, 32, 2) if tiny else (24, 1024, 16)
    return transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=wide,
            intermediate_size=4 * wide,
            num_hidden_layers=blocks,
            num_attention_heads=many,
            image_size=56 if tiny else 336,
            patch_size=14,
        ),
        text_config=transformers.LlamaConfig(
            hidden_size=width,
            intermediate_size=width * 43 // 16,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            vocab_size=words,
        ),
        image_token_index=image_token,
    )


def qwen_config(tiny: bool) -> Any:
    """Qwen2.5-VL-7B: 28 layers x 3584, 28 query heads that share 4, a tower of 32 x 1280."""
    text = {
        "hidden_size": 64 if tiny else 3584,
        "intermediate_size": 96 if tiny else 18944,
        "num_hidden_layers": 4 if tiny else 28,
        "num_attention_heads": 4 if tiny else 28,
        "num_key_value_heads": 2 if tiny else 4,
        "vocab_size": 152064,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 3, 3] if tiny else [16, 24, 24],
            "rope_theta": 1e6,
        },
    }
    vision = {
        "hidden_size": 32 if tiny else 1280,
        "intermediate_size": 48 if tiny else 3420,
        "depth": 2 if tiny else 32,
        "num_heads": 2 if tiny else 16,
        "out_hidden_size": text["hidden_size"],
        "fullatt_block_indexes": [1] if tiny else [7, 15, 23, 31],
    }
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)


def build(name: str, config: Any, device: str, dtype: torch.dtype) -> Any:
    """Make a random model on a device; its weights are drawn there."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = getattr(transformers, name)(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    model.generation_config.update(eos_token_id=None, pad_token_id=0)
    return model


def _prompts(batch: int, image: list[int], device: str) -> dict[str, Any]:
    """Random text with an image in it, a batch of rows without padding."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, 30000, (batch, BEFORE + AFTER), generator=generator)
    middle = torch.tensor([image]).expand(batch, -1)
    ids = torch.cat([text[:, :BEFORE], middle, text[:, BEFORE:]], dim=1).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _name(family: str, model: Any, batch: int) -> str:
    """What figures are headed with, which tells a tiny model from one of 7B."""
    text = model.config.text_config
    return f"{family}, {text.num_hidden_layers} layers x {text.hidden_size}, batch {batch}"


def llava(model: Any, batch: int) -> Bench:
    """A batch of prompts for a LLaVA, each with a picture of noise."""
    size = model.config.vision_config.image_size
    tokens = (size // model.config.vision_config.patch_size) ** 2
    inputs = _prompts(batch, [model.config.image_token_id] * tokens, model.device)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch, 3, size, size, generator=generator)
    inputs["pixel_values"] = pixels.to(model.device, model.dtype)
    return Bench(_name("LLaVA", model, batch), model, inputs, NEW_TOKENS)


def qwen(model: Any, batch: int, tiny: bool) -> Bench:
    """A batch of prompts for a Qwen2.5-VL, with 1,200 image tokens each, or 12."""
    rows, columns = (6, 8) if tiny else (60, 80)
    config = model.config
    image = [config.vision_start_token_id, *[config.image_token_id] * (rows * columns // 4)]
    inputs = _prompts(batch, [*image, config.vision_end_token_id], model.device)
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == config.image_token_id).long()
    generator = torch.Generator().manual_seed(0)
    patch = 3 * config.vision_config.temporal_patch_size * config.vision_config.patch_size**2
    pixels = torch.randn(batch * rows * columns, patch, generator=generator)
    inputs["pixel_values"] = pixels.to(model.device, model.dtype)
    grids = torch.tensor([[1, rows, columns]]).expand(batch, -1)
    inputs["image_grid_thw"] = grids.to(model.device)
    return Bench(_name("Qwen2.5-VL", model, batch), model, inputs, NEW_TOKENS)
