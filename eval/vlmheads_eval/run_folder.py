"""The folder of one run: its config, its append-only predictions, and its lock."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import msgspec

from vlmheads.errors import VlmHeadsError
from vlmheads.jobs.lines import append, only_writer, refuse_other_settings, repair
from vlmheads.output import replace
from vlmheads.schema import convert, read
from vlmheads_eval.records import read_records

CONFIG, PREDICTIONS, LOCK = "config.json", "predictions.jsonl", "lock"
SCHEMA = 2  # 1 did not record the images and questions.


class _Config(TypedDict, total=False):
    """What is read of a run's config; whatever else it holds is compared as it is."""

    schema: int
    task: str
    ground_truth: list[str]
    samples: list[str]


class _Prediction(msgspec.Struct):
    """What is read of a line of predictions, whatever its task."""

    sample: str
    image_sha256: str | None = None
    error: str | None = None


class Counts(NamedTuple):
    """How many samples a run has, and what became of them."""

    samples: int
    answered: int
    failed: int
    missing: int


def ground_truth_of(run: Path) -> tuple[Path, ...]:
    """Return the ground truth named in the config of a run folder."""
    listed = read_config(run).get("ground_truth") if (run / CONFIG).is_file() else None
    if not listed:
        raise VlmHeadsError(f"{run} names no ground truth", "a run folder, or --ground-truth")
    return tuple(run / path for path in listed)


def relative_to_run(path: Path, run: Path, workspace: Path) -> str:
    """Return a file's path for a run's config: relative if made for the run, otherwise absolute.

    A run can then be moved together with its scenes.
    """
    full = path.resolve()
    made = full.is_relative_to(workspace.resolve())
    return os.path.relpath(full, run.resolve()) if made else str(full)


def read_config(run: Path) -> dict[str, Any]:
    """Return a run's config."""
    config: dict[str, Any] = read(run / CONFIG, dict[str, Any], "a run folder")
    convert(config, _Config, str(run / CONFIG), "a run folder")
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


def counts(run: Path) -> Counts:
    """Return how many samples a run has, and how many were answered, failed, or are missing."""
    wanted = set(read_config(run).get("samples", ()))
    answered = wanted & set(done(run, failed=False))
    failed = wanted & set(failures(run))
    return Counts(len(wanted), len(answered), len(failed), len(wanted - answered - failed))


def missing(run: Path) -> int:
    """Return how many samples of a run have no prediction yet."""
    return counts(run).missing


def failures(run: Path) -> dict[str, str]:
    """Return the error of every sample that failed and was not answered since."""
    answered = set(done(run, failed=False))
    return {
        line.sample: line.error
        for line in _lines(run / PREDICTIONS)
        if line.error and line.sample not in answered
    }


def digests(run: Path) -> dict[str, tuple[str | None, bool]]:
    """Return for every sample the SHA-256 of its image as it was read, and whether it failed."""
    return {one.sample: (one.image_sha256, bool(one.error)) for one in _lines(run / PREDICTIONS)}


def _lines(path: Path) -> Iterator[_Prediction]:
    """Yield the lines of a file of predictions, none where there is no file."""
    if path.is_file():
        for _, line in read_records(path, _Prediction):
            yield line


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
                line: _Prediction = convert(record, _Prediction, str(path))
                key = line.sample
                if key not in answered and (key not in seen or not record.get("error")):
                    fresh.append(record)
                    seen.add(key)
                    answered.update(() if record.get("error") else (key,))
            with target.open("a", encoding="utf-8") as file:
                append(file, fresh)
            path.unlink()


def done(run: Path, *, failed: bool = True) -> list[str]:
    """Return the keys of samples with a prediction, including failed ones by default."""
    return [line.sample for line in _lines(run / PREDICTIONS) if failed or not line.error]


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
