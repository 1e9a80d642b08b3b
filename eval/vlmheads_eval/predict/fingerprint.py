"""What decides the answers of a run, besides the options: images, questions and data files."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vlmheads.errors import VlmHeadsError
from vlmheads_eval import run_folder
from vlmheads_eval.data import Material, Sample
from vlmheads_eval.records import file_sha256


def image_digest(image: Path) -> dict[str, str]:
    """Return the SHA-256 of an image file as a field of its record; none where it is not there."""
    try:
        return {"image_sha256": file_sha256(image)}
    except OSError:
        return {}


def check_images(run: Path, samples: Sequence[Sample], *, retry_failed: bool) -> None:
    """Refuse to resume where an image is another than the one that was asked about."""
    recorded, now = run_folder.digests(run), dict[Path, str | None]()
    for sample in samples:
        before, failed = recorded.get(sample.key, (None, False))
        if (failed and retry_failed) or not (before or failed):
            continue
        if sample.image not in now:
            now[sample.image] = image_digest(sample.image).get("image_sha256")
        if now[sample.image] not in (None, before):
            raise VlmHeadsError(
                f"{sample.image} is another file than when {run} asked about it ({sample.key})",
                "the same images",
                "pass --retry-failed to ask again about images that failed"
                if failed
                else "resume with the old images, or choose another --out",
            )


def data_files(path: Path) -> list[Path]:
    """Return the files of data: one, or those in AMBER's folder."""
    if path.is_dir():
        return sorted(file for kind in ("*.json", "*.txt") for file in path.glob(kind))
    return [path] if path.is_file() else []


def questions_sha256(material: Material) -> str:
    """Return one SHA-256 of everything that is asked: keys, prompts, and what the records say."""
    digest = hashlib.sha256()
    for sample in material.samples:
        asked = [sample.key, sample.prompt, dict(sample.record), sample.answer_field]
        digest.update(json.dumps(asked).encode() + b"\n")
    return digest.hexdigest()
