"""The preset of what a search chose, with the evidence inside."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmheads.model.geometry import Geometry
from vlmheads.model.loading import locate
from vlmheads.output import replace
from vlmheads_eval.records import file_sha256
from vlmheads_eval.tune.candidates import Candidate

SCHEMA = 1  # Of presets; see vlmheads.registry.


def write_preset(
    path: Path,
    candidate: Candidate,
    *,
    model: str,
    geometry: Geometry,
    recommended: bool,
    evidence: Mapping[str, str],
    note: str,
    versions: Mapping[str, str],
) -> None:
    """Write a preset that `vlmheads presets install` takes, next to the files that it names.

    One that is not recommended names no model, so that "auto" never takes it.

    Args:
        path: its file, in the folder of the search.
        candidate: the setting.
        model: as it was named to the search.
        geometry: of the model.
        recommended: whether the verdict is "recommended".
        evidence: name -> what was measured, in words.
        note: where the evidence comes from.
        versions: of what the search ran with.
    """
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "plugins": [dict(one) for one in candidate.plugins],
        "family": geometry.model_type,
        "versions": dict(versions),
        "source": f"vlmheads tune on {model}",
        "note": note,
        "geometry": geometry.to_dict(),
        "evidence": dict(evidence),
    }
    if recommended:
        about |= identity(model)
    replace(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def identity(model: str) -> dict[str, Any]:
    """Return what tells a model: its weights' files with size and SHA-256, or its hub id."""
    folder = Path(locate(model))
    if not folder.is_dir():
        return {"models": [str(folder)]}
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return {
        "weights": [
            {"file": one.name, "bytes": one.stat().st_size, "sha256": file_sha256(one)}
            for one in files
        ]
    }
