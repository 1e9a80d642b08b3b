"""Which bytes a result was made from."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file; of a run folder that of its predictions."""
    files = (path / "predictions.jsonl" if path.is_dir() else path for path in paths)
    return {str(file): file_sha256(file) for file in files}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
