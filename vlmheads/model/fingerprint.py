"""What tells one saved model from another without reading all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlmheads.model.loading import locate

PIECE = 1 << 24  # bytes hashed at each end of a large weights file


def model_fingerprint(model: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a model, of both ends for a large one.

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
    kinds = ("*.safetensors", "*.json", "*.jinja")
    files = sorted(file for kind in kinds for file in folder.glob(kind))
    return {file.name: _ends_sha256(file) for file in files}


def _ends_sha256(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(PIECE))
        if size > 2 * PIECE:
            file.seek(-PIECE, 2)
            digest.update(str(size).encode())
        digest.update(file.read())
    return digest.hexdigest()
