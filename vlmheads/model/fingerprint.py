"""What decides the answers of one saved model, so that no other is taken for it."""

from __future__ import annotations

from pathlib import Path

import torch

from vlmheads.digest import file_sha256
from vlmheads.model.loading import locate

_KINDS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*/*.jinja")


def model_fingerprint(model: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a model that decides its answers, by name.

    For a hub id, return the commit in the local cache.

    Args:
        model: a packaged model, a folder or a hub id.
    """
    from transformers import AutoConfig

    folder = Path(locate(model))
    if not folder.is_dir():
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        commit = getattr(config, "_commit_hash", None)
        return {"commit": str(commit)}
    files = sorted(file for kind in _KINDS for file in folder.glob(kind) if file.is_file())
    return {str(file.relative_to(folder)): file_sha256(file) for file in files}


def settled_dtype(dtype: str, device: str | None) -> str:
    """Return what "auto" stands for on a device: it is float32 on a CPU and as saved elsewhere."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return "float32" if dtype == "auto" and place == "cpu" else dtype
