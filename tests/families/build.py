"""Make a config's model tiny: one table of sizes by field name, and what a family changes of it.

A config class is asked for its defaults; every field that the tables below name is set anew, also
in the configs inside of it. Whatever the class derives from those (layer types, projector widths)
it derives again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import transformers as t
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

IMAGE, VIDEO, AUDIO, PAD, BOS, EOS = 60, 61, 62, 0, 1, 63
VOCABULARY, WIDTH = 96, 32
MARKERS = (56, 57, 58, 59)

# Fields of any config, by name.
EVERYWHERE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "image_token_id": IMAGE,
    "image_token_index": IMAGE,
    "image_patch_id": IMAGE,
    "video_token_id": VIDEO,
    "video_token_index": VIDEO,
    "audio_token_id": AUDIO,
    "audio_token_index": AUDIO,
    "out_hidden_size": WIDTH,
    "text_hidden_size": WIDTH,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "top_k_experts": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 4,
    "v_head_dim": 6,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "projector_hidden_size": 24,
    "image_seq_length": 4,
}
# Markers of images and videos in a prompt.
MARKS = {
    "vision_start_token_id": 58,
    "vision_end_token_id": 59,
    "image_start_token_id": 58,
    "image_end_token_id": 59,
    "video_start_token_id": 56,
    "video_end_token_id": 57,
    "boi_token_id": 58,
    "eoi_token_id": 59,
    "boi_token_index": 58,
    "eoi_token_index": 59,
}
# The text decoder.
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 12,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "shared_expert_intermediate_size": 16,
    "index_topk": 6,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "n_group": 1,
    "topk_group": 1,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
}
# A vision encoder, or whatever else stands beside the decoder.
SIDE: dict[str, Any] = {
    "hidden_size": 16,
    "embed_dim": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layers": 2,
    "depth": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_heads": 2,
    "head_dim": 8,
    "image_size": 16,
    "patch_size": 8,
    "num_position_embeddings": 16,
    "encoder_hidden_size": 16,
    "mlp_dim": 24,
}
_TEXT_KEYS = ("text_config", "decoder")


def entry(name: str) -> str:
    """The entry that a variant, such as "internvl+gpt_oss", is one of."""
    return name.partition("+")[0]


def entries() -> dict[str, str]:
    """Model type -> class name, for all that transformers maps to image-text-to-text."""
    return dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def config_class(model_type: str) -> type[Any]:
    """The config class of an entry; some are known by their model class alone."""
    try:
        return CONFIG_MAPPING[model_type]
    except KeyError:
        return getattr(t, entries()[model_type]).config_class


def config(model_type: str, changes: Mapping[str, Any]) -> Any:
    """A tiny config: the tables above, then `changes`, whose dictionaries change inner configs."""
    kind = config_class(model_type)
    has_text = "text_config" in kind.sub_configs
    made = kind(**_fields(kind(), "vision_config" if has_text else "text_config", changes))
    for name, value in changes.items():
        if isinstance(value, t.PreTrainedConfig):  # of another class than the entry's own
            made.__dict__[name] = value
    return made


def _tailored(fields: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Where sizes depend on each other."""
    if "kv_lora_rank" in given:  # MLA: keys are never grouped
        fields["num_key_value_heads"] = fields["num_attention_heads"]


def _fields(default: Any, key: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a config class from an instance with its defaults."""
    given = default.to_dict()
    sizes = EVERYWHERE | MARKS | (TEXT if key in _TEXT_KEYS else SIDE)
    fields = {name: value for name, value in sizes.items() if name in given}
    _tailored(fields, given)
    for name in default.sub_configs:
        inner, change = getattr(default, name, None), changes.get(name, {})
        if isinstance(change, t.PreTrainedConfig):
            continue
        if inner is not None or "model_type" in change:
            if change.get("model_type", getattr(inner, "model_type", None)) != getattr(
                inner, "model_type", None
            ):
                inner = CONFIG_MAPPING[change["model_type"]]()
            fields[name] = _fields(inner, name, change)
            if inner.model_type:
                fields[name]["model_type"] = inner.model_type
    inner_names = {*default.sub_configs, "model_type"}
    own = {name: value for name, value in changes.items() if name not in inner_names}
    return copy.deepcopy(fields | own)


def build(model_type: str, changes: Mapping[str, Any], attention: str = "sdpa") -> Any:
    """A tiny random model in evaluation mode, float32, without gradients."""
    model_type = entry(model_type)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = getattr(t, entries()[model_type])(config(model_type, changes)).eval()
        for parameter in model.parameters():
            spread(parameter)
    model.generation_config.update(pad_token_id=PAD, eos_token_id=None, bos_token_id=BOS)
    try:
        model.set_attn_implementation(attention)
    except ValueError:  # the whole model, or one of its parts, knows eager alone
        text = getattr(model.config, "text_config", None)
        parts = [m for m in model.modules() if getattr(m, "config", None) is text is not None]
        if parts and all(getattr(part, "_supports_sdpa", True) for part in parts):
            model.set_attn_implementation({"text_config": attention})
    return model.requires_grad_(False)


@torch.no_grad()
def spread(parameter: torch.Tensor) -> None:
    """Spread weights so that attention prefers something; fill what a class leaves empty."""
    if parameter.ndim > 1 or not bool(parameter.isfinite().all()):
        torch.nn.init.normal_(parameter, std=0.15)
