"""The folder of one prediction run."""

import json
from pathlib import Path

from vlmheads.errors import VlmHeadsError


def ground_truth_of(run: Path) -> tuple[Path, ...]:
    """Return the ground truth that a run folder names in its config."""
    config = run / "config.json"
    if not config.is_file():
        raise VlmHeadsError(
            f"{run} names no ground truth", "a run folder, or --ground-truth with it"
        )
    return tuple(Path(path) for path in json.loads(config.read_text("utf-8"))["ground_truth"])
