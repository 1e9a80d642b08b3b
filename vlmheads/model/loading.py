"""Load a vision-language model and its processor by name, folder or hub id."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import examine

GROUP = "vlmheads.models"
EMBEDDED = "embedded"
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def packaged_models() -> list[str]:
    """Names of the models that installed packages bring along."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def locate(name: str) -> str:
    """Return what `from_pretrained` takes for a model's name: a folder or a hub id.

    Raises:
        VlmHeadsError: neither a packaged model, nor a folder, nor what a hub id looks like.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return str(entry.load()())
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise VlmHeadsError(f"folder {name} holds no config.json", "a saved model")
        return name
    local = name.startswith((".", "/", "~")) or os.sep not in name or name.count("/") != 1
    if local or Path(name).exists():
        raise VlmHeadsError(
            f"no model {name!r}",
            f"one of {', '.join(packaged_models())}, a folder with a saved model, or a hub id",
        )
    return name


def load_model(name: str, *, dtype: str = "auto", device: str | None = None) -> tuple[Any, Any]:
    """Load a model for evaluation, and its processor with padding on the left.

    Weights come from safetensors only, and code that comes with a model is never run.

    Args:
        name: a packaged model ("embedded"), a folder, or a hub id.
        dtype: "float32", "float16", "bfloat16", or "auto": as it was saved on an accelerator,
            float32 on a CPU.
        device: such as "cpu" or "cuda:0"; by default an accelerator where there is one.

    Raises:
        VlmHeadsError: the model is not to be had, takes no images, cannot be attached to, or has
            no chat template; an unknown dtype or device.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind: Any = DTYPES.get(dtype)
    if kind is None:
        if dtype != "auto":
            raise VlmHeadsError(f"dtype {dtype!r}", f"auto, {', '.join(DTYPES)}")
        kind = torch.float32 if place == "cpu" else "auto"
    try:
        where = torch.empty(0, device=place).device
    except (RuntimeError, AssertionError) as error:
        raise VlmHeadsError(f"device {place!r} cannot be used", "such as cpu or cuda:0") from error
    source = locate(name)
    config = _load(AutoConfig, name, source)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise VlmHeadsError(
            f"{name} is a {config.model_type} model, which takes no images",
            "a model for image-text-to-text",
            "see `vlmheads families`",
        )
    model = _load(AutoModelForImageTextToText, name, source, dtype=kind, use_safetensors=True)
    examine(model)
    processor = _load(AutoProcessor, name, source, backend="pil")
    if getattr(processor, "chat_template", None) is None:
        raise VlmHeadsError(
            f"the processor of {name} has no chat template", "a model that follows instructions"
        )
    processor.tokenizer.padding_side = "left"
    return model.to(where).eval(), processor


def saved_dtype(name: str) -> torch.dtype:
    """Return the data type in which a model was saved; float32 where it does not say."""
    config = _load(AutoConfig, name, locate(name))
    return getattr(config, "dtype", None) or torch.float32


def _load(auto: Any, name: str, source: str, **options: Any) -> Any:
    """Run a from_pretrained, with its many errors in one line."""
    try:
        return auto.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())
        short = reason[:200] + "..." * (len(reason) > 200)
        todo = (
            ""
            if Path(source).is_dir()
            else ("check the connection and the id, or name a folder with a saved model")
        )
        raise VlmHeadsError(f"{name} cannot be loaded ({short})", todo=todo) from error
