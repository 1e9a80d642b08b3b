"""vlmheads as a model of lmms-eval: `lmms-eval --model vlmheads --model_args plugins=vhr ...`."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return what lmms-eval's entry points `lmms_eval.models` give: where the model class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("vlmheads", chat_class_path="vlmheads_lmms.model.Model")
