"""Rows of variants: decoders that checkpoints of an entry come with, or options that they set."""

from __future__ import annotations

import images as i
from row import FRAMED, GEMMA4_VISION, MISTRAL4, PINPOINTS, Row

VARIANTS: dict[str, Row] = {
    # Decoders that checkpoints of an entry come with, or options that they set.
    "blip-2+t5": Row(
        {
            "num_query_tokens": 4,
            "use_decoder_only_language_model": False,
            "text_config": {
                "model_type": "t5",
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 48,
                "num_decoder_layers": 2,
                "num_heads": 4,
                "decoder_start_token_id": 0,
            },
        }
    ),
    "gemma4+shared": Row(
        {
            "vision_config": GEMMA4_VISION,
            "text_config": {
                "num_kv_shared_layers": 2,
                "final_logit_softcapping": 3.0,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
        },
        i.positions,
        frame=FRAMED,
        types="mm_token_type_ids",
    ),
    "gemma4+moe": Row(
        {
            "vision_config": GEMMA4_VISION,
            "text_config": {
                "enable_moe_block": True,
                "num_experts": 4,
                "top_k_experts": 2,
                "moe_intermediate_size": 16,
                "hidden_size_per_layer_input": 0,
                "attention_k_eq_v": True,
                "num_global_key_value_heads": 2,
            },
        },
        i.positions,
        frame=FRAMED,
        types="mm_token_type_ids",
    ),
    "instructblip+llama": Row(
        {"num_query_tokens": 4, "text_config": {"model_type": "llama"}}, i.asked, count=4
    ),
    "internvl+gpt_oss": Row(
        {
            "vision_config": {"image_size": [32, 32], "patch_size": [8, 8]},
            "text_config": {"model_type": "gpt_oss"},
        }
    ),
    "internvl+deepseek_v3": Row(
        {
            "vision_config": {"image_size": [32, 32], "patch_size": [8, 8]},
            "text_config": {"model_type": "deepseek_v3"},
        }
    ),
    "internvl+qwen3": Row(
        {
            "vision_config": {"image_size": [32, 32], "patch_size": [8, 8]},
            "text_config": {"model_type": "qwen3"},
        }
    ),
    "internvl+qwen3_moe": Row(
        {
            "vision_config": {"image_size": [32, 32], "patch_size": [8, 8]},
            "text_config": {"model_type": "qwen3_moe"},
        }
    ),
    "llava_next+mistral": Row(PINPOINTS | {"text_config": {"model_type": "mistral"}}, i.tiles),
    "mistral3+ministral3": Row(
        {"vision_config": {"image_size": 32}, "text_config": {"model_type": "ministral3"}}, i.sized
    ),
    "mistral3+mistral4": Row(
        {"vision_config": {"image_size": 32}, "text_config": MISTRAL4}, i.sized
    ),
    "paligemma+gemma2": Row(
        {
            "projection_dim": 32,
            "hidden_size": 32,
            "text_config": {
                "model_type": "gemma2",
                "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 3.0,
                "query_pre_attn_scalar": 8,
            },
        },
        types="token_type_ids",
        answer_type=1,
    ),
}
