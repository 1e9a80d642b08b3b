"""The vision tower: that of the embedded model, which was trained by classifying patches."""

from __future__ import annotations

from typing import Any

import torch

from vlmheads_testbed import embedded_model


def packaged_tower() -> Any:
    """Load the embedded model's CLIP tower in single precision; it stays frozen."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        embedded_model(), local_files_only=True, trust_remote_code=False, dtype=torch.float32
    )
    return model.model.vision_tower.requires_grad_(False)
