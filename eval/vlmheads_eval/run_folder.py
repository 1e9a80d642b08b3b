"""The folder of one run: its config, its append-only predictions, its one writer."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.records import read_records

CONFIG, PREDICTIONS, LOCK = "config.json", "predictions.jsonl", "lock"
SCHEMA = 1


def ground_truth_of(run: Path) -> tuple[Path, ...]:
    """Return the ground truth that a run folder names in its config."""
    if not (run / CONFIG).is_file():
        raise VlmHeadsError(
            f"{run} names no ground truth", "a run folder, or --ground-truth with it"
        )
    return tuple(run / path for path in read_config(run)["ground_truth"])


def relative_to_run(path: Path, run: Path, workspace: Path) -> str:
    """Return how a run's config names a file: from the run where it was made for it, else in full.

    A run can then be moved together with the scenes that it is about.
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
    """Write the config of a new run, or hold it against that of the run to resume."""
    check_config(run, config)
    if not (run / CONFIG).exists():
        _replace(run / CONFIG, json.dumps({"schema": SCHEMA, **config}, indent=1) + "\n")


def check_config(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse to resume a run with another config: its predictions would be of two minds.

    Raises VlmHeadsError with every differing field. A run that is not there yet has none.
    """
    if not (run / CONFIG).exists():
        return
    wanted = json.loads(json.dumps({"schema": SCHEMA, **config}))
    found = read_config(run)
    differing = [
        f"{name} {_short(found.get(name))} -> {_short(wanted.get(name))}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise VlmHeadsError(
            f"{run} was begun with another config: {'; '.join(differing)}",
            "the same config",
            "resume with the old options, or take another --out",
        )


def missing(run: Path) -> int:
    """Return how many samples of a run have no prediction yet."""
    return len(set(read_config(run)["samples"]) - set(done(run)))


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold a lock on a path while writing; the lock of a dead process is gone with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise VlmHeadsError(
                f"another process writes to {path.parent}",
                "one writer a run",
                "wait for it, or take another --out",
            ) from error
        yield


def rank_file(run: Path, rank: int, world: int) -> Path:
    """Return the file that a process writes its predictions to."""
    return run / (PREDICTIONS if world == 1 else f"predictions.rank{rank}.jsonl")


def repair(path: Path) -> None:
    """Mend a last line that a killed process left torn: end it if it is whole, else cut it off."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        content = file.read()
        head, _, last = content.rpartition(b"\n")
        if not last:
            return
        try:
            whole = isinstance(json.loads(last.decode("utf-8")), dict)
        except ValueError:
            whole = False
        if whole:
            file.write(b"\n")
        else:
            file.truncate(len(head) + 1 if b"\n" in content else 0)


def merge(run: Path) -> None:
    """Move what processes of an earlier or this job wrote into the one file of predictions.

    A sample that two files have is kept once. A rank's file goes only when all of it is safe.
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
    """Return the keys of samples with a prediction, with those that failed or without."""
    if not (run / PREDICTIONS).is_file():
        return []
    keys = []
    for place, record in read_records(run / PREDICTIONS):
        if not isinstance(record.get("sample"), str):
            raise VlmHeadsError(f"{place}: no sample", "a line of `vlmheads eval predict`")
        if failed or not record.get("error"):
            keys.append(record["sample"])
    return keys


def append(file: IO[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as lines and see them onto the disk."""
    for record in records:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())


def put_in_order(run: Path, keys: Sequence[str]) -> None:
    """Bring finished predictions into the order of the samples, one line each.

    However often a run was killed and however many processes wrote it, the file is then the same.
    Where a failed sample was asked again, its later line counts.
    """
    lines: dict[str, dict[str, Any]] = {}
    order = []
    for _, record in read_records(run / PREDICTIONS):
        lines[record["sample"]] = record
        order.append(record["sample"])
    if order != list(keys):
        text = "".join(json.dumps(lines[key], ensure_ascii=False) + "\n" for key in keys)
        _replace(run / PREDICTIONS, text)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
