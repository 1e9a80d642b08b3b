from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vlmheads_testbed.scenes import PATCH, SIZE


@dataclass(frozen=True)
class Geometry:
    """Widths and depths of the two towers; the defaults are those of the embedded model."""

    vision_width: int = 128
    vision_layers: int = 4
    vision_heads: int = 4
    vision_inner: int = 384
    width: int = 256
    layers: int = 8
    heads: int = 8
    inner: int = 384


def build_model(geometry: Geometry, tokenizer: Any) -> Any:
    """Build a LLaVA with random weights from torch's current seed, whose special tokens are set."""
    from transformers import (
        CLIPVisionConfig,
        GenerationConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = CLIPVisionConfig(
        hidden_size=geometry.vision_width,
        intermediate_size=geometry.vision_inner,
        num_hidden_layers=geometry.vision_layers,
        num_attention_heads=geometry.vision_heads,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=geometry.vision_width,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=geometry.width,
        intermediate_size=geometry.inner,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_key_value_heads=geometry.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(SIZE // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    model: Any = LlavaForConditionalGeneration(config)
    # Wider than usual: the projector learns to write these, tied, before anything changes them,
    # and words as short as usual could not be told from one another with confidence.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.05)
    model.generation_config = GenerationConfig(**ids, max_new_tokens=96, do_sample=False)
    return model
