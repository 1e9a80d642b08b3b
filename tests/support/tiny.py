"""Tiny random models of every tested family, built from configs, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers as t

IMAGE, PAD, VIDEO = 60, 0, 61
VOCABULARY = 64
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 63,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def _llama(**changes: Any) -> t.LlamaConfig:
    return t.LlamaConfig(**(TEXT | changes))


def _llava(**text: Any) -> t.PreTrainedModel:
    return t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**VISION),
            text_config=_llama(**text),
            image_token_id=IMAGE,
        )
    )


def _llava_next() -> t.PreTrainedModel:
    return t.LlavaNextForConditionalGeneration(
        t.LlavaNextConfig(
            vision_config=t.CLIPVisionConfig(**VISION),
            text_config=_llama(),
            image_token_id=IMAGE,
            image_grid_pinpoints=[[16, 32], [32, 16]],
        )
    )


def _llava_onevision() -> t.PreTrainedModel:
    return t.LlavaOnevisionForConditionalGeneration(
        t.LlavaOnevisionConfig(
            vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
            text_config=t.Qwen2Config(**TEXT),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            image_grid_pinpoints=[[16, 32], [32, 16]],
        )
    )


def _vipllava() -> t.PreTrainedModel:
    return t.VipLlavaForConditionalGeneration(
        t.VipLlavaConfig(
            vision_config=t.CLIPVisionConfig(**VISION),
            text_config=_llama(),
            image_token_id=IMAGE,
            vision_feature_layers=[-2, -1],
        )
    )


_QWEN = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": 58,
    "vision_end_token_id": 59,
}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def _qwen2_vl() -> t.PreTrainedModel:
    vision = {"embed_dim": 16, "depth": 2, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2}
    config = t.Qwen2VLConfig(
        text_config=TEXT | {"rope_parameters": _MROPE},
        vision_config=vision | {"patch_size": 8, "spatial_merge_size": 2},
        **_QWEN,
    )
    return t.Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl() -> t.PreTrainedModel:
    vision = {"hidden_size": 16, "depth": 2, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"intermediate_size": 24, "window_size": 32, "fullatt_block_indexes": [1]}
    config = t.Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": _MROPE},
        vision_config=vision | {"patch_size": 8, "spatial_merge_size": 2},
        **_QWEN,
    )
    return t.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> t.PreTrainedModel:
    vision = {"hidden_size": 16, "depth": 2, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"intermediate_size": 24, "deepstack_visual_indexes": [0, 1]}
    vision |= {"num_position_embeddings": 16}
    config = t.Qwen3VLConfig(
        text_config=TEXT | {"rope_parameters": _MROPE | {"mrope_interleaved": True}},
        vision_config=vision | {"patch_size": 8, "spatial_merge_size": 2},
        **_QWEN,
    )
    return t.Qwen3VLForConditionalGeneration(config)


def _internvl() -> t.PreTrainedModel:
    vision = VISION | {"image_size": [32, 32], "patch_size": [8, 8]}
    return t.InternVLForConditionalGeneration(
        t.InternVLConfig(
            vision_config=t.InternVLVisionConfig(**vision),
            text_config=t.Qwen2Config(**TEXT),
            image_token_id=IMAGE,
            image_seq_length=4,
        )
    )


def _idefics3() -> t.PreTrainedModel:
    return t.Idefics3ForConditionalGeneration(
        t.Idefics3Config(
            vision_config=VISION | {"image_size": 32},
            text_config=_llama(),
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=PAD,
        )
    )


def _smolvlm() -> t.PreTrainedModel:
    return t.SmolVLMForConditionalGeneration(
        t.SmolVLMConfig(
            vision_config=VISION | {"image_size": 32},
            text_config=_llama(),
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=PAD,
        )
    )


def _paligemma() -> t.PreTrainedModel:
    return t.PaliGemmaForConditionalGeneration(
        t.PaliGemmaConfig(
            vision_config=VISION | {"vision_use_head": False},
            text_config=t.GemmaConfig(**(TEXT | {"num_key_value_heads": 1})).to_dict(),
            image_token_id=IMAGE,
            projection_dim=32,
            hidden_size=32,
        )
    )


def _gemma3() -> t.PreTrainedModel:
    text = TEXT | {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"] * 2}
    return t.Gemma3ForConditionalGeneration(
        t.Gemma3Config(
            vision_config=VISION | {"vision_use_head": False},
            text_config=t.Gemma3TextConfig(**text),
            image_token_id=IMAGE,
            boi_token_id=58,
            eoi_token_id=59,
            mm_tokens_per_image=4,
        )
    )


def _mistral3() -> t.PreTrainedModel:
    return t.Mistral3ForConditionalGeneration(
        t.Mistral3Config(
            vision_config=t.PixtralVisionConfig(**(VISION | {"image_size": 32, "head_dim": 8})),
            text_config=t.MistralConfig(**TEXT),
            image_token_id=IMAGE,
            spatial_merge_size=2,
        )
    )


def _noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# What the processor makes of the images of a batch, given one seed an image.
def _plain(seeds: list[int], size: int = 16) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.stack([_noise(3, size, size, seed=seed) for seed in seeds])}


def _tiles(seeds: list[int]) -> dict[str, torch.Tensor]:
    pixels = torch.stack([_noise(3, 3, 16, 16, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[16, 30]] * len(seeds))}


def _grid(seeds: list[int]) -> dict[str, torch.Tensor]:
    pixels = torch.cat([_noise(16, 3 * 2 * 8 * 8, seed=seed) for seed in seeds])
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]] * len(seeds))}


def _listed(seeds: list[int]) -> dict[str, torch.Tensor]:
    pixels = torch.stack([_noise(1, 3, 32, 32, seed=seed) for seed in seeds])
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(len(seeds), 1, 32, 32).bool(),
    }


def _sized(seeds: list[int]) -> dict[str, torch.Tensor]:
    return _plain(seeds, 32) | {"image_sizes": torch.tensor([[32, 32]] * len(seeds))}


# Image tokens in the order in which a prompt holds them; -1 stands for an image token.
_BROKEN_ROWS = [-1, -1, 57, -1, -1, 59]
_FRAMED = [58, -1, -1, -1, -1, 59]


@dataclass(frozen=True)
class Spec:
    """How to build a family's tiny model and its inputs."""

    build: Callable[[], t.PreTrainedModel]
    images: Callable[[list[int]], dict[str, torch.Tensor]]
    tokens: tuple[int, ...]
    types: str = ""


SPECS: dict[str, Spec] = {
    "llava": Spec(lambda: _llava(num_key_value_heads=4), _plain, (-1,) * 4),
    "llava-gqa": Spec(_llava, _plain, (-1,) * 4),
    "llava_next": Spec(_llava_next, _tiles, ()),
    "llava_onevision": Spec(_llava_onevision, _tiles, ()),
    "vipllava": Spec(_vipllava, _plain, (-1,) * 4),
    "qwen2_vl": Spec(_qwen2_vl, _grid, tuple(_FRAMED), "mm_token_type_ids"),
    "qwen2_5_vl": Spec(_qwen2_5_vl, _grid, tuple(_FRAMED), "mm_token_type_ids"),
    "qwen3_vl": Spec(_qwen3_vl, _grid, tuple(_FRAMED), "mm_token_type_ids"),
    "internvl": Spec(_internvl, lambda seeds: _plain(seeds, 32), (-1,) * 4),
    "idefics3": Spec(_idefics3, _listed, (57, -1, -1, -1, -1, 57)),
    "smolvlm": Spec(_smolvlm, _listed, (57, -1, -1, -1, -1, 57)),
    "paligemma": Spec(_paligemma, _plain, (-1,) * 4, "token_type_ids"),
    "gemma3": Spec(_gemma3, _plain, tuple(_FRAMED), "token_type_ids"),
    "mistral3": Spec(_mistral3, _sized, tuple(_BROKEN_ROWS)),
}
FAMILIES = tuple(SPECS)


@cache
def build(family: str, attention: str = "sdpa") -> t.PreTrainedModel:
    """A tiny random model, the same one at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = SPECS[family].build().eval()
        for parameter in model.parameters():  # enough spread for attention that prefers something
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config.update(pad_token_id=PAD, eos_token_id=None, bos_token_id=1)
    # A static cache is as long as the longest so far; another length rounds differently.
    model._previous_max_cache_length = 64
    model.set_attn_implementation(attention)
    return model.requires_grad_(False)


def tokens_of(family: str) -> tuple[int, ...]:
    """The tokens that one image stands as in a prompt; -1 is an image token."""
    spec = SPECS[family]
    if spec.tokens:
        return spec.tokens
    features = build(family).model.get_image_features(**spec.images([0])).pooler_output
    return (-1,) * len(features[0])


def inputs(family: str, lengths: tuple[int, ...] = (5,), seed: int = 0) -> dict[str, torch.Tensor]:
    """A left-padded batch of prompts: two words, one image, then `lengths[row]` words."""
    spec = SPECS[family]
    generator = torch.Generator().manual_seed(seed)
    image = [IMAGE if token == -1 else token for token in tokens_of(family)]
    rows = []
    for length in lengths:
        words = torch.randint(2, 50, (2 + length,), generator=generator).tolist()
        rows.append([*words[:2], *image, *words[2:]])
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    batch = {"input_ids": ids, "attention_mask": mask}
    if spec.types:
        batch[spec.types] = (ids == IMAGE).long() * (
            spec.types != "token_type_ids" or family == "gemma3"
        )
    return batch | spec.images([1000 * seed + row for row in range(len(lengths))])


def row(
    family: str, lengths: tuple[int, ...], index: int, seed: int = 0
) -> dict[str, torch.Tensor]:
    """One row of `inputs(family, lengths, seed)`, alone and without padding."""
    batch = inputs(family, lengths, seed)
    keep = batch["attention_mask"][index].bool()
    alone = {
        name: value[index : index + 1][:, keep]
        for name, value in batch.items()
        if name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
    }
    return alone | SPECS[family].images([1000 * seed + index])
