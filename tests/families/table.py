"""One row an entry: what is changed of the tiny config, and what images look like.

An entry with a "+" is a variant of the one before it: another decoder, or another option of one.
"""

from __future__ import annotations

import images as i
from row import (
    CODEBOOK,
    ENCODER_DECODER,
    FRAMED,
    GEMMA3N,
    GEMMA3N_AUDIO,
    GEMMA4_VISION,
    HALF,
    MROPE,
    NO_TOKENS,
    OMNI_AUDIO,
    PINPOINTS,
    POSITIONS,
    QUERIES,
    SAM,
    Row,
    grid,
    none,
)
from standin import StandInConfig
from variants import VARIANTS

ROWS: dict[str, Row] = {
    "apertus1p5": Row(
        {
            "image_token_offset": 64,
            "audio_token_offset": 80,
            "vision_config": CODEBOOK
            | {"codebook_size": 16, "attn_resolutions": [], "embed_dim": 16},
            "audio_config": {"codebook_dim": 16, "codebook_size": 16, "num_filters": 2},
        },
        i.small,
    ),
    "aria": Row({"projector_patch_to_query_dict": {4: 4}}),
    "blip": none(ENCODER_DECODER),
    "blip-2": Row(QUERIES),
    "chameleon": Row(
        {
            "vocabulary_map": {"<image>": 60} | {f"IMGIMG{chr(65 + n)}Z": 64 + n for n in range(8)},
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "vq_config": CODEBOOK | {"num_embeddings": 8, "resolution": 8},
        },
        i.square(8),
    ),
    "cohere2_vision": Row({"alignment_intermediate_size": 48}),
    "cohere_compass": grid(
        text_config={"rope_parameters": {"full_attention": MROPE}},
        vision_config={"deepstack_visual_indexes": [0, 1]},
    ),
    "cosmos3_edge": grid(),
    "cosmos3_omni": grid(vision_config={"deepstack_visual_indexes": [0, 1]}),
    "deepseek_ocr2": Row(
        {
            "vision_config": {
                "sam_config": SAM | {"downsample_channels": [32, 16]},
                "encoder_config": {},
            },
            "text_config": {"mlp_layer_types": ["dense", *["sparse"] * 3]},
        },
        i.local,
    ),
    "deepseek_vl_hybrid": Row({"high_res_vision_config": SAM}, i.two_sizes, count=4),
    "diffusion_gemma": none("fills blocks by diffusion, not token by token"),
    "dots3_note": grid(
        text_config={"shared_experts_intermediate_size": 16},
        vision_config={"adapter_in_dim": 16, "adapter_out_dim": 32, "per_layer_config": {}},
        audio_config={"adapter_input_size": 16, "adapter_out_dim": 32, "downsample_hidden_size": 4},
    ),
    "emu3": Row(
        {
            "vocabulary_map": {"<image>": 60, "<|extra_200|>": 59}
            | {f"<|visual token {n:06d}|>": 64 + n for n in range(8)},
            "vq_config": CODEBOOK
            | {
                "codebook_size": 8,
                "hidden_size": 64,
                "embed_dim": 4,
                "num_attention_heads": 1,
                "attn_resolutions": [],
            },
        },
        i.small,
    ),
    "ernie4_5_vl_moe": grid(
        text_config={"moe_intermediate_size": [16, 16], "rope_parameters": MROPE}
    ),
    "evolla": none("reads proteins, not images"),
    "exaone4_5": grid(text_config={}, vision_config={"fullatt_block_indexes": [1]}),
    "fast_vlm": Row({"vision_config": StandInConfig()}, i.square(16)),
    "florence2": none(ENCODER_DECODER),
    "fuyu": Row({"patch_size": 8, "image_size": 16}, i.flat, count=4),
    "gemma3": Row({"mm_tokens_per_image": 4}, frame=FRAMED, types="token_type_ids"),
    "gemma3n": Row(
        {
            "vision_config": StandInConfig(),
            "vision_soft_tokens_per_image": 4,
            "text_config": GEMMA3N,
            "audio_config": GEMMA3N_AUDIO,
        },
        i.square(16),
        frame=FRAMED,
    ),
    "gemma4": Row(
        {"vision_config": GEMMA4_VISION},
        i.positions,
        frame=FRAMED,
        types="mm_token_type_ids",
    ),
    "gemma4_unified": Row(
        {"vision_config": {"model_type": "gemma4_unified_vision", "pooling_kernel_size": 2}},
        i.merged_positions,
        frame=FRAMED,
        types="mm_token_type_ids",
    ),
    "git": none(NO_TOKENS),
    "glm46v": grid(),
    "glm4v": grid(),
    "glm4v_moe": grid(text_config=HALF),
    "glm5_next": grid(
        text_config={"qk_rope_head_dim": 0, "qk_nope_head_dim": 12, "index_kpool": 2}
    ),
    "glm_ocr": grid(),
    "glmga": grid(),
    "got_ocr2": Row({"vision_config": SAM}),
    "granite4_vision": Row(
        PINPOINTS
        | {
            "deepstack_layer_map": [[-1, 0], [-2, 1]],
            "spatial_target_layers": [1, 2, 3, 3],
            "downsample_rate": "1/2",
            "vision_config": {"hidden_size": 64},
        },
        i.tiles,
    ),
    "granite_docling": Row(
        {
            "vision_config": {
                "image_size": 32,
                "scale_factor": 2,
                "deepstack_visual_indexes": [0, 1],
            }
        },
        i.tile_list,
    ),
    "hunyuan_vl": grid(vision_config={"img_max_token_num": 16, "max_vit_seq_len": 64}),
    "hy_v4_vl": grid(),
    "hyperclovax_vision_v2": grid(text_config={}, vision_config={"fullatt_block_indexes": [1]}),
    "idefics": none(NO_TOKENS),
    "idefics2": Row({"perceiver_config": {"resampler_n_latents": 4}}, i.listed),
    "idefics3": Row({"vision_config": {"image_size": 32}}, i.listed),
    "inkling2": Row({"text_config": {"unpadded_vocab_size": 96}}, i.blocks),
    "inkling2_loop": Row({"text_config": {"unpadded_vocab_size": 96}}, i.blocks),
    "inkling_mm_model": Row({}, i.pairs),
    "instructblip": Row(QUERIES, i.asked, count=4),
    "instructblipvideo": Row(QUERIES | {"video_token_index": 60}, i.asked_video, count=8),
    "internvl": Row({"vision_config": {"image_size": [32, 32], "patch_size": [8, 8]}}),
    "janus": Row(
        {
            "vision_config": {"num_image_tokens": 4, "projection_dim": 32},
            "vq_config": CODEBOOK | {"num_embeddings": 16},
        },
        count=4,
    ),
    "kimi_k25": Row(
        {"projection_hidden_size": 16, "vision_config": POSITIONS | {"pos_emb_time": 1}},
        i.patches,
        frame=FRAMED,
    ),
    "kosmos-2": none(NO_TOKENS),
    "kosmos-2.5": none(NO_TOKENS),
    "lfm2_vl": Row({"text_config": {"full_attn_idxs": [1, 3]}}, i.shapes),
    "lfm3_vl": grid(text_config={}),
    "lighton_ocr": Row({"vision_config": {"image_size": 32}}, i.sized),
    "llama4": Row(
        {
            "vision_config": {
                "intermediate_size": 64,
                "vision_output_dim": 16,
                "projector_input_dim": 16,
                "projector_output_dim": 16,
            },
            "text_config": {"intermediate_size_mlp": 48},
        },
        count=1,
    ),
    "llava_next": Row(PINPOINTS, i.tiles),
    "llava_next_video": Row(PINPOINTS, i.tiles),
    "llava_onevision": Row(PINPOINTS, i.tiles),
    "minicpm_ocr": Row({"image_token_id": 60}, i.targets),
    "minicpmv4_6": Row({"image_token_id": 60}, i.targets),
    "minicpmv4_7": Row(
        {
            "image_token_id": 60,
            "image_start_id": 58,
            "image_end_id": 59,
            "slice_start_id": 56,
            "slice_end_id": 57,
            "newline_id": 55,
        },
        i.targets,
        frame=FRAMED,
        types="mm_token_type_ids",
    ),
    "minimax_m3_vl": grid(
        text_config={
            "index_block_size": 4,
            "index_topk_blocks": 2,
            "layer_types": [
                "full_attention",
                "minimax_m3_sparse",
                "full_attention",
                "minimax_m3_sparse",
            ],
            "dense_intermediate_size": 48,
            "shared_intermediate_size": 16,
            "rotary_dim": 8,
        }
    ),
    "mistral3": Row({"vision_config": {"image_size": 32}}, i.sized),
    "mistral4": none("a text model"),
    "mistral_large4": Row({"vision_config": {"image_size": 32}}, i.sized),
    "mllama": none(NO_TOKENS),
    "molmo2": Row(
        {
            "vision_config": {"image_size": [16, 16], "num_position_embeddings": 4},
            "adapter_config": {"vision_feature_layer": [-1, -2]},
        },
        i.pooled,
        frame=FRAMED,
        types="mm_token_type_ids",
    ),
    "muse_glimmer": Row(
        {"vision_config": POSITIONS, "out_hidden_size": 64}, i.two_frames, frame=FRAMED
    ),
    "muse_spark": Row(
        {
            "out_hidden_size": 64,
            "vision_config": POSITIONS,
            "audio_config": {
                "num_hidden_layers": 4,
                "hidden_sizes": [4, 4, 4, 4],
                "depths": [1, 1, 1, 1],
            },
        },
        i.two_frames,
        frame=FRAMED,
        normed_heads=True,
    ),
    "nemotron_h_omni": Row(
        {
            "image_token_id": 60,
            "vision_hidden_size": 16,
            "vision_config": {"video_temporal_patch_size": 2},
        },
        i.grid_hw,
    ),
    "ovis2": Row(
        {"visual_indicator_token_ids": [61, 62, 57, 58, 59], "hidden_size": 32},
        frame=(61, -1, 62),
    ),
    "paddleocr_vl": Row(
        {"text_config": {"rope_parameters": MROPE}},
        i.patches,
        frame=FRAMED,
        types="mm_token_type_ids",
    ),
    "paligemma": Row(
        {"projection_dim": 32, "hidden_size": 32, "text_config": {"num_key_value_heads": 1}},
        types="token_type_ids",
        answer_type=1,
    ),
    "perception_lm": Row(
        {"vision_config": StandInConfig(channels_first=False, cls_token=True)}, i.stacked
    ),
    "pi0": none("makes actions, not text"),
    "pix2struct": none(ENCODER_DECODER),
    "pp_chart2table": Row({"vision_config": SAM}),
    "pp_formulanet": none(ENCODER_DECODER),
    "qwen2_5_omni_thinker": grid(
        vision_start_token_id=58,
        audio_config=OMNI_AUDIO,
        vision_config={"fullatt_block_indexes": [1]},
    ),
    "qwen2_5_vl": grid(vision_config={"fullatt_block_indexes": [1], "window_size": 32}),
    "qwen2_vl": grid(vision_config={"hidden_size": 32}),
    "qwen3_5": grid(text_config=HALF),
    "qwen3_5_moe": grid(text_config=HALF),
    "qwen3_omni_moe_thinker": grid(
        vision_start_token_id=58,
        audio_config=OMNI_AUDIO,
        vision_config={"deepstack_visual_indexes": [0, 1]},
    ),
    "qwen3_vl": grid(vision_config={"deepstack_visual_indexes": [0, 1]}),
    "qwen3_vl_moe": grid(vision_config={"deepstack_visual_indexes": [0, 1]}),
    "qwen4_exp": grid(
        text_config=HALF
        | {
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 6,
            "indexer_compress_ratio": 1,
        }
    ),
    "shieldgemma2": Row({"mm_tokens_per_image": 4}, frame=FRAMED, types="token_type_ids"),
    "smolvlm": Row({"vision_config": {"image_size": 32}}, i.listed),
    "step3p7": Row({"vision_config": {"image_size": 32}}, i.local),
    "t5gemma2": none(ENCODER_DECODER),
    "udop": none(ENCODER_DECODER),
    "unlimited_ocr": Row(
        {
            "vision_config": {
                "sam_config": SAM | {"downsample_channels": [32, 16]},
                "encoder_config": {"image_size": 16, "patch_size": 8},
            }
        },
        i.local_grid,
    ),
    "video_llama_3": Row({}, i.merged, count=4),
    "video_llava": Row({}, i.image_pixels, count=4),
    "vipllava": Row({"vision_feature_layer": [-2, -1]}),
    "vision-encoder-decoder": none(ENCODER_DECODER),
} | VARIANTS
