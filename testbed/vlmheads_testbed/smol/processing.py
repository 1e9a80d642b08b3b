"""The tokenizer and processor of the second bench: SmolLM2's, with an image token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmheads_testbed.scenes import PATCH, SIZE

IMAGE, PAD = "<image>", "<|endoftext|>"

#: SmolLM2's chat template (ChatML) for contents of a text or of parts, the picture before the text.
#: Its default system message is left out: the adapter was trained without one.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>\\n' -}}"
    "{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def load_tokenizer(base: Path) -> Any:
    """Load the tokenizer of a base model from its folder and add the image token."""
    from transformers import AutoTokenizer

    # Given here rather than set afterwards, so that it is saved with the tokenizer.
    tokenizer = AutoTokenizer.from_pretrained(
        base, local_files_only=True, trust_remote_code=False, padding_side="left"
    )
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    tokenizer.pad_token = PAD
    return tokenizer


def build_processor(tokenizer: Any) -> Any:
    """Build the LLaVA processor around a tokenizer: 112-pixel squares, 64 image tokens."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" drops again
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
