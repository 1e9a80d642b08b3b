"""The setting recommended for a model: a shipped preset that was measured on its weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vlmheads.entries import report
from vlmheads.errors import VlmHeadsError
from vlmheads.registry import Preset, list_presets, read_preset


@dataclass(frozen=True)
class Recommendation:
    """What is recommended for a model, and why.

    Args:
        preset: the name of a shipped preset; None where plain captions are recommended.
        reason: one line for the reader.
    """

    preset: str | None
    reason: str


def recommended(folder: str | Path) -> Recommendation:
    """Return the shipped preset whose evidence is about these very weights, if there is one.

    Weights are compared by size and SHA-256: what helps one checkpoint can harm another of the
    same family and geometry: see docs/effect.md.

    Args:
        folder: of a saved model. What is no folder, such as a hub id, has no recommendation.
    """
    for name in list_presets():
        try:
            preset = read_preset(name)
        except VlmHeadsError as error:  # of another package, or for a plugin that is not there
            report(error)
            continue
        if preset.weights and _is_of(preset, Path(folder)):
            told = "; ".join(f"{key}: {text}" for key, text in preset.evidence.items())
            return Recommendation(name, f"measured on these weights; {told}")
    return Recommendation(
        None,
        "no shipped preset was measured on these weights, so captions are plain; "
        "--plugin names a method, and `vlmheads eval` measures whether it helps",
    )


def _is_of(preset: Preset, folder: Path) -> bool:
    path = folder / preset.weights["file"]
    if not path.is_file() or path.stat().st_size != preset.weights["bytes"]:
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return bool(found == preset.weights["sha256"])
