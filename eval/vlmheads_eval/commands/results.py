"""What the commands that score share: the option --json, the file it names, counts of a run."""

import json
from pathlib import Path
from typing import Any

import click

from vlmheads.output import save_text

JSON = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the full result as JSON."
)


def files_of(run: Path) -> list[Path]:
    """Return the files of a run that are read: its predictions and, of a folder, its settings."""
    from vlmheads_eval.records import predictions_file
    from vlmheads_eval.run_folder import CONFIG

    return [predictions_file(run), *([run / CONFIG] if run.is_dir() else [])]


def expect_task(run: Path, wanted: str) -> None:
    """Refuse a run folder that holds answers to another task.

    Raises:
        VlmHeadsError: with the command that scores it.
    """
    from vlmheads.errors import VlmHeadsError
    from vlmheads_eval.run_folder import CONFIG, read_config

    if not (run / CONFIG).is_file():
        return
    task = str(read_config(run)["task"])
    if task != wanted:
        command = "chair" if task == "caption" else task
        raise VlmHeadsError(
            f"{run} is a run of the task {task}",
            f"answers to {wanted}",
            f"score it with `vlmheads eval score {command} {run}`",
        )


def about_run(run: Path, result: dict[str, Any]) -> None:
    """Add to a result how many of a run's samples it counts, and say so where some are missing.

    A file that is not in a run folder is of no known number of samples, and is left as it is.
    """
    from vlmheads_eval.run_folder import CONFIG, counts

    if not (run / CONFIG).is_file():
        return
    found = counts(run)
    result["run"] = found._asdict()
    if found.answered < found.samples:
        click.echo(
            f"note: {found.answered} of the run's {found.samples} samples are scored; "
            f"{found.failed} failed, {found.missing} have no prediction yet",
            err=True,
        )


def write_result(path: Path | None, result: Any) -> None:
    """Write a result as JSON, if a file is named; see `vlmheads.output.save`."""
    if path is not None:
        save_text(path, json.dumps(result, indent=1) + "\n")
