"""How a tiny model of an entry is made, and what the rows of the table share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import images as i


@dataclass(frozen=True)
class Row:
    """How the tiny model of an entry is made, and its inputs.

    Args:
        changes: fields of its config, inner configs as dictionaries.
        images: see images.py.
        count: tokens that one image stands as; 0 asks the model's vision side.
        frame: what stands around them in a prompt; -1 is all of them.
        types: an input that marks image tokens with 1, where the model takes it.
        why: why there is no tiny model, in one line; it is not built.
        answer_type: that input on what the model says.
        normed_heads: whether each head is normed before the output projection, so that a scale at
            the attention interface vanishes and one behind the norm does not.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    images: i.Images = i.plain
    count: int = 0
    frame: tuple[int, ...] = (-1,)
    types: str = ""
    why: str = ""
    answer_type: int = 0
    normed_heads: bool = False


MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
# Where half of a head rotates, a head is twice as wide.
HALF = {"rope_parameters": MROPE | {"partial_rotary_factor": 0.5}, "head_dim": 16}
FRAMED = (58, -1, 59)
PINPOINTS = {"image_grid_pinpoints": [[16, 32], [32, 16]]}
CODEBOOK = {
    "base_channels": 32,
    "channel_multiplier": [1, 2],
    "num_res_blocks": 1,
    "latent_channels": 16,
}
SAM = {
    "output_channels": 16,
    "num_pos_feats": 8,
    "image_size": 32,
    "global_attn_indexes": [1],
    "window_size": 2,
}
OMNI_AUDIO = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "output_dim": 32,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "downsample_hidden_size": 4,
}
GEMMA3N = {
    "num_kv_shared_layers": 2,
    "activation_sparsity_pattern": [0.0] * 4,
    "intermediate_size": [48] * 4,
    "laurel_rank": 4,
    "vocab_size_per_layer_input": 90,
}
GEMMA3N_AUDIO = {
    "vocab_size": 2,
    "vocab_offset": 92,
    "hidden_size": 16,
    "conf_num_attention_heads": 2,
    "conf_num_hidden_layers": 1,
    "input_feat_size": 8,
    "sscp_conv_channel_size": [4, 4],
}
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32}
GEMMA4_VISION = {
    "model_type": "gemma4_vision",
    "position_embedding_size": 16,
    "pooling_kernel_size": 2,
}
QUERIES = {"num_query_tokens": 4, "text_config": OPT}
MISTRAL4 = {
    "model_type": "mistral4",
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 8,
    },
}
POSITIONS = {"pos_emb_height": 4, "pos_emb_width": 4}


def none(why: str) -> Row:
    return Row(why=why)


def grid(images: i.Images = i.grid, /, **changes: Any) -> Row:
    """A row of the Qwen-VL layout: patches in a grid, M-RoPE unless the text config says."""
    changes.setdefault("text_config", {"rope_parameters": MROPE})
    return Row(changes, images, frame=FRAMED, types="mm_token_type_ids")


NO_TOKENS = "its prompt holds no image tokens"
ENCODER_DECODER = "encoder-decoder"
