"""`vlmheads eval compare` and `vlmheads eval report`."""

import json
from pathlib import Path
from typing import Any

import click

from vlmheads_eval.pope_parsers import PARSERS
from vlmheads_eval.reading import LINEAGES
from vlmheads_eval.refusal import one_line_errors

FORMATS = ("markdown", "csv", "latex", "html")


def _options(command: Any) -> Any:
    """Add what compare and report share."""
    for option in (
        click.argument(
            "runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
        ),
        click.option(
            "--ground-truth",
            "-g",
            multiple=True,
            type=click.Path(exists=True, path_type=Path),
            help="What is in the images; by default what the first run folder was made from.",
        ),
        click.option("--names", help="Names of the runs, separated by commas."),
        click.option(
            "--task",
            type=click.Choice(("chair", "pope")),
            help="By default what the first run folder was asked, else chair.",
        ),
        click.option(
            "--lineage", default="pattern", show_default=True, type=click.Choice(LINEAGES)
        ),
        click.option(
            "--parser", default="strict", show_default=True, type=click.Choice(list(PARSERS))
        ),
        click.option("--draws", default=10_000, show_default=True, type=click.IntRange(100)),
        click.option("--seed", default=0, show_default=True),
    ):
        command = option(command)
    return command


@click.command()
@_options
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures.")
@one_line_errors
def compare(json_file: Path | None, **options: Any) -> None:
    """Compare RUNS with the first of them, the baseline, on the images that all have."""
    from vlmheads_eval.report_tables import print_comparison

    result, _ = compared(**options)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print_comparison(result)


@click.command()
@_options
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="A folder."
)
@one_line_errors
def report(out: Path, **options: Any) -> None:
    """Compare RUNS and write the comparison as JSON, Markdown, CSV, LaTeX and one HTML page."""
    from vlmheads_eval.pictures import pictures_of
    from vlmheads_eval.report import write_report
    from vlmheads_eval.report_tables import print_comparison
    from vlmheads_eval.run_folder import ground_truth_of

    result, scores = compared(**options)
    truth = options["ground_truth"] or ground_truth_of(options["runs"][0])
    for path in write_report(out, result, scores, pictures_of(truth)):
        click.echo(path)
    print_comparison(result)


def compared(
    runs: tuple[Path, ...],
    ground_truth: tuple[Path, ...],
    names: str | None,
    task: str | None,
    lineage: str,
    parser: str,
    draws: int,
    seed: int,
) -> tuple[dict[str, Any], list[Any]]:
    """Return the comparison of runs, and their scores where they are captions."""
    from vlmheads.errors import VlmHeadsError
    from vlmheads_eval import lineages
    from vlmheads_eval.captions import predictions_file
    from vlmheads_eval.compare import compare_chair, score_run
    from vlmheads_eval.compare_pope import compare_pope
    from vlmheads_eval.ground_truth import load_ground_truth
    from vlmheads_eval.hashes import file_hashes
    from vlmheads_eval.pope import read_answers, read_questions
    from vlmheads_eval.run_folder import CONFIG, ground_truth_of, read_config

    titles = (
        names.split(",") if names else [run.stem if run.is_file() else run.name for run in runs]
    )
    if len(titles) != len(runs):
        raise VlmHeadsError(f"{len(titles)} names", f"{len(runs)}, one a run")
    truth_paths = ground_truth or ground_truth_of(runs[0])
    asked = read_config(runs[0])["task"] if (runs[0] / CONFIG).is_file() else "caption"
    if (task or asked) == "pope":
        files = [read_questions(path) for path in truth_paths]
        answers = {
            title: read_answers(predictions_file(run))
            for title, run in zip(titles, runs, strict=True)
        }
        result = compare_pope(answers, files, parser, draws=draws, seed=seed)
        return {**result, "inputs": file_hashes([*runs, *truth_paths])}, []
    reading = lineages.lineage(lineage)
    truth = load_ground_truth(truth_paths, reading)
    scores = [
        score_run(title, run, truth, reading) for title, run in zip(titles, runs, strict=True)
    ]
    result = compare_chair(scores, draws=draws, seed=seed)
    inputs = file_hashes([*runs, *truth.files])
    return {**result, "lineage": lineage, "inputs": inputs}, scores
