"""From pictures and prompts to the inputs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads.printable import in_short
from vlmheads.runtime.compat import execution_device

# Attributes under which processors keep the texts that stand for an image, a video or a sound.
_PLACEHOLDERS = ("image_token", "video_token", "audio_token", "boi_token")


def model_inputs(
    model: Any,
    processor: Any,
    pictures: Sequence[Image.Image | None],
    prompts: str | Sequence[str],
) -> Any:
    """Make model inputs of pictures and prompts: left padded, and where the model takes them.

    Args:
        model: a transformers model for image-text-to-text generation.
        processor: its processor, with a chat template; it is left as it is.
        pictures: one per row; None leaves the image out.
        prompts: one for all rows, or one per row.

    Raises:
        VlmHeadsError: a prompt that holds the model's own image token, another number of prompts
            than of pictures, a template or a processor that fails, or one that cannot pad.
    """
    texts = [prompts] * len(pictures) if isinstance(prompts, str) else list(prompts)
    if len(texts) != len(pictures):
        raise VlmHeadsError(
            f"{len(texts)} prompts for {len(pictures)} images", "one for all, or one per image"
        )
    chats = [
        [{"role": "user", "content": _content(picture, text)}]
        for picture, text in zip(pictures, texts, strict=True)
    ]
    return chat_inputs(model, processor, chats)


def chat_inputs(model: Any, processor: Any, chats: Sequence[Sequence[dict[str, Any]]]) -> Any:
    """Make model inputs of conversations: left padded, and where the model takes them.

    Args:
        model: a transformers model for image-text-to-text generation.
        processor: its processor, with a chat template.
        chats: one per row: messages with a `role`, and as `content` parts {"type": "text", "text"}
            and {"type": "image", "image"}, where an image is a Pillow image.

    Raises:
        VlmHeadsError: a text that holds the model's own image token, a template or a processor that
            fails, or one that cannot pad.
    """
    texts = (part.get("text") for chat in chats for said in chat for part in said["content"])
    for text in {text for text in texts if text is not None}:
        _refuse_placeholders(model, processor, text)
    options: dict[str, Any] = {"padding_side": "left"}
    if len(chats) > 1:
        if processor.tokenizer.pad_token is None:
            raise VlmHeadsError(
                "a batch for a tokenizer without a padding token",
                "a token that fills up shorter prompts",
                "set processor.tokenizer.pad_token, or use batch_size=1",
            )
        options["padding"] = True
    try:
        inputs = processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
        )
    except Exception as error:  # a template raises what it likes, and so does an image too small
        raise VlmHeadsError(
            f"a {type(processor).__name__} that fails at this prompt or image ({in_short(error)})"
        ) from error
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask[:, -1].all()):
        raise VlmHeadsError(
            f"a {type(processor).__name__} that pads on the right when told otherwise",
            "padding on the left",
            "set processor.tokenizer.padding_side = 'left', or use batch_size=1",
        )
    return inputs.to(input_device(model), dtype=model.dtype)


def input_device(model: Any) -> torch.device:
    """Return the device on which a model takes its token ids.

    That is where its token embeddings are, or where accelerate brings them when it runs a model
    whose weights it keeps elsewhere.

    Raises:
        VlmHeadsError: a model without weights.
    """
    embeddings = model.get_input_embeddings()
    device: torch.device = embeddings.weight.device
    if device.type != "meta":
        return device
    place = execution_device(embeddings)
    if place is None:
        raise VlmHeadsError(
            f"a {type(model).__name__} without weights (on the meta device)",
            "a model whose weights were loaded",
        )
    return place


def _content(picture: Image.Image | None, text: str) -> list[dict[str, Any]]:
    """Return the content of a message: the picture, if any, and what is asked about it."""
    question = {"type": "text", "text": text}
    return [question] if picture is None else [{"type": "image", "image": picture}, question]


def _refuse_placeholders(model: Any, processor: Any, text: str) -> None:
    """Refuse a prompt with a text in it that the processor takes for an image."""
    known = {getattr(processor, name, None) for name in _PLACEHOLDERS}
    config = model.config
    ids = [getattr(config, f"{kind}_token_id", None) for kind in ("image", "video", "audio")]
    known |= {
        processor.tokenizer.convert_ids_to_tokens(token) for token in ids if isinstance(token, int)
    }
    found = sorted(token for token in known if isinstance(token, str) and token and token in text)
    if found:
        raise VlmHeadsError(
            f"a prompt that holds {found[0]!r}, which stands for an image to this model",
            "text alone; the image is put before it",
            "leave it out, or write it another way",
        )
