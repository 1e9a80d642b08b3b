"""The names under which a checkpoint keeps its weights: those it was published with, or newer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vlmheads.errors import VlmHeadsError

KEEP, PUBLISHED, HF = "keep", "published", "hf"
LAYOUTS = (KEEP, PUBLISHED, HF)

# Vision tower -> patterns, to the names that such models were published with, which servers such as
# vLLM expect, and to those that transformers 5.2x gives tensors that it saves for the first time.
_TOWER = (
    (r"^((?:model\.)?vision_tower\.)(?!vision_model\.)", r"\1vision_model."),
    (r"^((?:model\.)?vision_tower\.)vision_model\.", r"\1"),
)
_TABLE = {
    "clip_vision_model": _TOWER,
    "siglip_vision_model": _TOWER,
}


def renamed(names: Iterable[str], layout: str, tower: str) -> dict[str, str]:
    """Return the names that change, and what to.

    Args:
        names: those of all tensors of a checkpoint.
        layout: "keep" them; "published", as models of the family were first published; "hf", as
            transformers 5.2x saves a model that it was not given under other names.
        tower: `model_type` of the config of the vision tower.

    Raises:
        VlmHeadsError: an unknown layout, a vision tower whose other names are not known here, or
            two tensors under one name.
    """
    if layout not in LAYOUTS:
        raise VlmHeadsError(f"layout {layout!r}", f"one of {', '.join(LAYOUTS)}")
    if layout == KEEP:
        return {}
    if tower not in _TABLE:
        raise VlmHeadsError(
            f"layout {layout!r} for a model with the vision tower {tower!r}",
            f"one with {' or '.join(_TABLE)}",
            f"leave the names as they are (layout {KEEP!r})",
        )
    pattern, replacement = _TABLE[tower][0 if layout == PUBLISHED else 1]
    names = list(names)
    found = {name: re.sub(pattern, replacement, name) for name in names}
    if len(set(found.values())) < len(names):
        raise VlmHeadsError(f"two tensors of one name under layout {layout!r}", f"layout {KEEP!r}")
    return {old: new for old, new in found.items() if old != new}
