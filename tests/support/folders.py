"""Tiny models of every tested family saved as folders, with the family's real processor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import tokenizers as tk
import transformers as t

START, END, MARK, END_OF_TURN = 58, 59, 57, 62
BOS, UNKNOWN, EOS = 1, 2, 63
WORDS = (
    "a the dog cat bird kite boat on in at with grass hill sky red blue near and . , ? "
    "Describe image Is there user answer Yes No left right small large house tree river cloud "
    "stands sits runs flies one two three under over green white black fence road stone"
).split()
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ,.?!:;-()"
PINPOINTS = [[16, 32], [32, 16]]
SQUARE = {"height": 16, "width": 16}

# What a family's template writes for each part of a message; %s is the family's text for an image.
TEMPLATE = (
    "{%% for message in messages %%}{{ message['role'] }} "
    "{%% for part in message['content'] %%}"
    "{%% if part['type'] == 'image' %%}%s{%% else %%} {{ part['text'] }}{%% endif %%}"
    "{%% endfor %%}{%% endfor %%}{%% if add_generation_prompt %%} answer{%% endif %%}"
)


@dataclass(frozen=True)
class Recipe:
    """How the processor of a family is made.

    Args:
        processor: a class of transformers.
        image_processor: a class of transformers, and what it is made with.
        tokens: texts of special tokens, by id.
        image: what the chat template writes for an image.
        video_processor: a class of transformers, where the processor takes one.
        named: tokens that the processor looks up on the tokenizer, by attribute.
        options: for the processor.
        words: that the processor adds to a vocabulary without them.
        torchvision: whether transformers makes the processor only with torchvision.
    """

    processor: str
    image_processor: tuple[str, dict[str, Any]]
    tokens: Mapping[int, str]
    image: str
    video_processor: str = ""
    named: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    torchvision: bool = False


_CLIP = ("CLIPImageProcessor", {"size": {"shortest_edge": 16}, "crop_size": SQUARE})
_LLAVA_OPTIONS = {
    "patch_size": 8,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
_LLAVA = Recipe("LlavaProcessor", _CLIP, {60: "<image>"}, "<image>\n", options=_LLAVA_OPTIONS)
_QWEN_IMAGES = {
    "patch_size": 8,
    "merge_size": 2,
    "size": {"shortest_edge": 16 * 16, "longest_edge": 32 * 32},
}
_QWEN_TOKENS = {
    60: "<|image_pad|>",
    61: "<|video_pad|>",
    START: "<|vision_start|>",
    END: "<|vision_end|>",
}


def _qwen(processor: str, video_processor: str = "Qwen2VLVideoProcessor") -> Recipe:
    return Recipe(
        processor,
        ("Qwen2VLImageProcessor", _QWEN_IMAGES),
        _QWEN_TOKENS,
        "<|vision_start|><|image_pad|><|vision_end|>",
        video_processor,
        torchvision=True,
    )


_IDEFICS_TOKENS = {
    60: "<image>",
    MARK: "<fake_token_around_image>",
    START: "<global-img>",
    END_OF_TURN: "<end_of_utterance>",
}
_LONGEST = {"longest_edge": 32}
_IDEFICS_IMAGES = {"size": _LONGEST, "max_image_size": _LONGEST, "do_image_splitting": False}

RECIPES: dict[str, Recipe] = {
    "llava": _LLAVA,
    "vipllava": _LLAVA,
    "llava_next": Recipe(
        "LlavaNextProcessor",
        ("LlavaNextImageProcessor", _CLIP[1] | {"image_grid_pinpoints": PINPOINTS}),
        {60: "<image>"},
        "<image>\n",
        options=_LLAVA_OPTIONS,
    ),
    "llava_onevision": Recipe(
        "LlavaOnevisionProcessor",
        ("LlavaOnevisionImageProcessor", {"size": SQUARE, "image_grid_pinpoints": PINPOINTS}),
        {60: "<image>", 61: "<video>"},
        "<image>\n",
        "LlavaOnevisionVideoProcessor",
        options={"num_image_tokens": 4, "vision_feature_select_strategy": "full"},
        torchvision=True,
    ),
    "qwen2_vl": _qwen("Qwen2VLProcessor"),
    "qwen2_5_vl": _qwen("Qwen2_5_VLProcessor"),
    "qwen3_vl": _qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
    "internvl": Recipe(
        "InternVLProcessor",
        (
            "GotOcr2ImageProcessor",
            {"size": {"height": 32, "width": 32}, "min_patches": 1, "max_patches": 1},
        ),
        {60: "<IMG_CONTEXT>", 61: "<video>", START: "<img>", END: "</img>"},
        "<IMG_CONTEXT>\n",
        "InternVLVideoProcessor",
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        options={"image_seq_length": 4},
        torchvision=True,
    ),
    "idefics3": Recipe(
        "Idefics3Processor",
        ("Idefics3ImageProcessor", _IDEFICS_IMAGES),
        _IDEFICS_TOKENS,
        "<image>",
        options={"image_seq_len": 4},
    ),
    "smolvlm": Recipe(
        "SmolVLMProcessor",
        ("SmolVLMImageProcessor", _IDEFICS_IMAGES),
        _IDEFICS_TOKENS,
        "<image>",
        "SmolVLMVideoProcessor",
        options={"image_seq_len": 4},
        torchvision=True,
    ),
    "paligemma": Recipe(
        "PaliGemmaProcessor",
        ("SiglipImageProcessor", {"size": SQUARE, "image_seq_length": 4}),
        {60: "<image>"},
        "<image>",
        named={"image_token": "<image>"},
        words=tuple([f"<loc{n:04}>" for n in range(1024)] + [f"<seg{n:03}>" for n in range(128)]),
    ),
    "gemma3": Recipe(
        "Gemma3Processor",
        ("Gemma3ImageProcessor", {"size": SQUARE}),
        {60: "<image_soft_token>", START: "<start_of_image>", END: "<end_of_image>"},
        "<start_of_image>",
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        options={"image_seq_length": 4},
    ),
    "mistral3": Recipe(
        "PixtralProcessor",
        ("PixtralImageProcessor", {"size": _LONGEST, "patch_size": 8}),
        {60: "[IMG]", MARK: "[IMG_BREAK]", END: "[IMG_END]"},
        "[IMG]",
        options={"patch_size": 8, "spatial_merge_size": 2},
        torchvision=True,
    ),
}


def tokenizer(recipe: Recipe, *, letters: bool = False) -> t.PreTrainedTokenizerFast:
    """A tokenizer of as many tokens as the tiny models know, which pads on the right.

    Its tokens are whole words, or, with `letters`, single characters that spell any text.
    """
    vocabulary = {0: "<pad>", BOS: "<s>", UNKNOWN: "<unk>", EOS: "</s>", **recipe.tokens}
    special = list(vocabulary.values())
    free = (number for number in range(tiny.VOCABULARY) if number not in vocabulary)
    vocabulary |= dict(zip(free, LETTERS if letters else WORDS, strict=False))
    vocabulary |= dict(enumerate(recipe.words, tiny.VOCABULARY))
    core = tk.Tokenizer(
        tk.models.WordLevel({text: number for number, text in vocabulary.items()}, "<unk>")
    )
    core.pre_tokenizer = tk.pre_tokenizers.Whitespace()
    if letters:
        core.pre_tokenizer = tk.pre_tokenizers.Split("", "isolated")
        core.decoder = tk.decoders.Fuse()
    core.add_special_tokens(special)
    return t.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        extra_special_tokens=dict(recipe.named),
    )


def processor(family: str, *, letters: bool = False) -> Any:
    """The real processor of a family, of sizes that fit the tiny model; see `tokenizer`."""
    recipe = RECIPES[family]
    name, options = recipe.image_processor
    images = getattr(t, name)(**options)
    if "image_seq_length" in options:
        images.image_seq_length = options["image_seq_length"]
    parts = {"image_processor": images, "tokenizer": tokenizer(recipe, letters=letters)}
    if recipe.video_processor:
        parts["video_processor"] = getattr(t, recipe.video_processor)()
    template = TEMPLATE % recipe.image
    return getattr(t, recipe.processor)(**parts, chat_template=template, **recipe.options)


def save(family: str, folder: Path) -> Path:
    """Save the tiny model of a family and its processor."""
    tiny.build(family).save_pretrained(folder)
    processor(family).save_pretrained(folder)
    return folder


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit a JSON file in place."""
    found = json.loads(path.read_text())
    edit(found)
    path.write_text(json.dumps(found))
