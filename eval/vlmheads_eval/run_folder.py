"""The folder of one run: its config, its append-only predictions, and its lock."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.jobs.lines import append, only_writer, refuse_other_settings, repair, replace
from vlmheads_eval.records import read_records

CONFIG, PREDICTIONS, LOCK = "config.json", "predictions.jsonl", "lock"
SCHEMA = 1


def ground_truth_of(run: Path) -> tuple[Path, ...]:
    """Return the ground truth named in the config of a run folder."""
    if not (run / CONFIG).is_file():
        raise VlmHeadsError(f"{run} names no ground truth", "a run folder, or --ground-truth")
    return tuple(run / path for path in read_config(run)["ground_truth"])


def relative_to_run(path: Path, run: Path, workspace: Path) -> str:
    """Return a file's path for a run's config: relative if made for the run, otherwise absolute.

    A run can then be moved together with its scenes.
    """
    full = path.resolve()
    made = full.is_relative_to(workspace.resolve())
    return os.path.relpath(full, run.resolve()) if made else str(full)


def read_config(run: Path) -> dict[str, Any]:
    """Return a run's config."""
    try:
        config: dict[str, Any] = json.loads((run / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise VlmHeadsError(f"{run / CONFIG} cannot be read ({error})", "a run folder") from error
    return config


def open_config(run: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a new run, or compare it with that of the run to resume."""
    check_config(run, config)
    if not (run / CONFIG).exists():
        replace(run / CONFIG, json.dumps({"schema": SCHEMA, **config}, indent=1) + "\n")


def check_config(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse to resume a run with another config.

    Raises VlmHeadsError with every field that differs. A run that does not exist yet is accepted.
    """
    if not (run / CONFIG).exists():
        return
    refuse_other_settings(
        run,
        read_config(run),
        {"schema": SCHEMA, **config},
        "resume with the old options, or choose another --out",
    )


def missing(run: Path) -> int:
    """Return how many samples of a run have no prediction yet."""
    return len(set(read_config(run)["samples"]) - set(done(run)))


def rank_file(run: Path, rank: int, world: int) -> Path:
    """Return the file to which a process writes its predictions."""
    return run / (PREDICTIONS if world == 1 else f"predictions.rank{rank}.jsonl")


def merge(run: Path) -> None:
    """Move the predictions of all processes, of this job or an earlier one, into one file.

    Duplicate samples are kept once. A rank's file is deleted only after its records are on disk.
    """
    target = run / PREDICTIONS
    repair(target)
    seen, answered = set(done(run)), set(done(run, failed=False))
    for path in sorted(run.glob("predictions.rank*.jsonl")):
        with only_writer(path):
            repair(path)
            fresh = []
            for _, record in read_records(path):
                key = record["sample"]
                if key not in answered and (key not in seen or not record.get("error")):
                    fresh.append(record)
                    seen.add(key)
                    answered.update(() if record.get("error") else (key,))
            with target.open("a", encoding="utf-8") as file:
                append(file, fresh)
            path.unlink()


def done(run: Path, *, failed: bool = True) -> list[str]:
    """Return the keys of samples with a prediction, including failed ones by default."""
    if not (run / PREDICTIONS).is_file():
        return []
    keys = []
    for place, record in read_records(run / PREDICTIONS):
        if not isinstance(record.get("sample"), str):
            raise VlmHeadsError(f"{place}: no sample", "a line written by `vlmheads eval predict`")
        if failed or not record.get("error"):
            keys.append(record["sample"])
    return keys


def put_in_order(run: Path, keys: Sequence[str]) -> None:
    """Sort finished predictions in the order of the samples, one line each.

    The file is then the same however often the run was killed and however many processes wrote it.
    If a failed sample was retried, its last line counts.
    """
    lines: dict[str, dict[str, Any]] = {}
    order = []
    for _, record in read_records(run / PREDICTIONS):
        lines[record["sample"]] = record
        order.append(record["sample"])
    if order != list(keys):
        text = "".join(json.dumps(lines[key], ensure_ascii=False) + "\n" for key in keys)
        replace(run / PREDICTIONS, text)
