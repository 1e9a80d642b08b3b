"""`vlmheads eval`: predict, score, compare, report, and all of them from one file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vlmheads.commands.edge import CommandError, OneLineGroup, one_line_errors
from vlmheads.commands.endpoint_options import endpoint_of, endpoint_options, said
from vlmheads.commands.show import quiet_loading
from vlmheads.output import check_folder, check_output
from vlmheads.printable import printable
from vlmheads_eval.chair.mentions import VARIANTS
from vlmheads_eval.commands.benchmarks import COMPARED, compare_runs, task_of
from vlmheads_eval.commands.data import show_data
from vlmheads_eval.commands.judged import requests
from vlmheads_eval.commands.results import files_of, write_result
from vlmheads_eval.commands.score import score
from vlmheads_eval.compare import TASKS
from vlmheads_eval.pope.parsers import PARSERS

MOST_DRAWS = 100_000  # Intervals do not get better beyond; memory grows with them.
SEED = click.IntRange(0, 2**32 - 1)
AUTO_BATCH = 32  # Where "auto" starts; a batch that does not fit is halved.

# What only a model has that is loaded here.
LOCAL = ("plugins", "control", "control_seed", "batch_size", "dtype", "device")


def _batch_size(context: click.Context, option: click.Parameter, value: str) -> int:
    if value == "auto":
        return AUTO_BATCH
    if not (value.isascii() and value.isdecimal() and 1 <= len(value) <= 6 and int(value)):
        raise click.BadParameter("a number from 1 to 999999, or auto")
    return int(value)


@click.command()
@click.argument("name", required=False)
@click.option(
    "--data",
    multiple=True,
    default=("testbed:test",),
    show_default=True,
    help="testbed:test, testbed:counterfactual, a COCO folder, POPE question files (repeat the "
    "option), or AMBER's data folder.",
)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option("--model", default="embedded", show_default=True)
@click.option("--plugin", "plugins", multiple=True, help='For example vhr or "vhr:alpha=1.5".')
@click.option("--control", type=click.Choice(("random-heads", "text-only")))
@click.option(
    "--control-seed", default=0, show_default=True, type=SEED, help="For the random heads."
)
@click.option("--task", help="caption, pope or amber. [default: caption]")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--num",
    type=click.IntRange(1),
    help="Number of images (of a benchmark, of its clusters), drawn with the seed.",
)
@click.option("--ids", type=click.Path(exists=True, path_type=Path), help="Only these image ids.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option("--prompt", help="For questions, a template with {question} in it.")
@click.option("--max-new-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option("--batch-size", default="8", show_default=True, callback=_batch_size)
@click.option("--retry-failed", is_flag=True, help="Retry images that failed.")
@click.option("--dtype", default="auto", show_default=True)
@click.option("--device", help="For example cpu or cuda:0.")
@endpoint_options
@one_line_errors
def predict(name: str | None, task: str | None, **options: Any) -> None:
    """Ask a model about images and store the answers in OUT.

    NAME is a benchmark, such as mme; see `vlmheads eval data`.

    It can be stopped at any point; call it again to resume. An image that cannot be read is
    reported, the rest is done, and the exit code is 2. Start it with `accelerate launch -m
    vlmheads_eval predict ...` to share the work between processes. With --endpoint a served model
    is asked: docs/serving.md.
    """
    from vlmheads.errors import VlmHeadsError
    from vlmheads_eval.predict.run import run_prediction

    if name and task:
        raise VlmHeadsError(f"{name} and --task {task}", "one of them")
    endpoint = endpoint_of(options, LOCAL)
    if endpoint is None:
        quiet_loading(options["model"])
    if run_prediction(task=name or task or "caption", endpoint=endpoint, **options):
        raise click.exceptions.Exit(2)


def _options(command: Any) -> Any:
    """Add the arguments and options that compare and report share."""
    for option in (
        click.argument(
            "runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
        ),
        click.option(
            "--ground-truth",
            "-g",
            multiple=True,
            type=click.Path(exists=True, path_type=Path),
            help="The objects in the images; by default those of the first run folder.",
        ),
        click.option("--names", help="Names of the runs, separated by commas."),
        click.option(
            "--task",
            type=click.Choice((*TASKS, *COMPARED)),
            help="By default the task of the first run folder, otherwise chair.",
        ),
        click.option(
            "--variant", default="pattern", show_default=True, type=click.Choice(VARIANTS)
        ),
        click.option(
            "--parser", default="strict", show_default=True, type=click.Choice(list(PARSERS))
        ),
        click.option(
            "--decoding",
            help="How the captions were decoded: greedy, sampled or beams; one per run, separated "
            "by commas, or one for all. By default what the run folder says.",
        ),
        click.option(
            "--pool",
            is_flag=True,
            help="Pool runs whose names differ only in a seed at the end (vcd-0, vcd-1).",
        ),
        click.option(
            "--draws", default=10_000, show_default=True, type=click.IntRange(100, MOST_DRAWS)
        ),
        click.option("--seed", default=0, show_default=True, type=SEED),
    ):
        command = option(command)
    return command


@click.command()
@_options
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the figures as JSON."
)
@click.option("--reading", help="For a benchmark: how answers are read; see its score command.")
@one_line_errors
def compare(json_file: Path | None, reading: str | None, **options: Any) -> None:
    """Compare runs with the first of them, the baseline.

    They are compared on the images that all have.
    """
    task = task_of(options["runs"], options["task"])
    if task in COMPARED:
        for name in ("variant", "parser", "decoding", "pool"):
            if said(name):
                hint = "; use --reading" if name in ("variant", "parser") else ""
                raise CommandError(f"--{name} has no effect on {task}{hint}")
            options.pop(name)
        compare_runs(**{**options, "task": task}, reading=reading, json_file=json_file)
        return
    if reading is not None:
        raise CommandError(f"--reading has no effect on {task}")
    from vlmheads_eval.compare import compared
    from vlmheads_eval.report.tables import print_comparison

    check_output(json_file, inputs=_read_of(options))
    result, _ = compared(**options)
    print_comparison(result)
    write_result(json_file, result)


@click.command()
@_options
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="A folder."
)
@one_line_errors
def report(out: Path, **options: Any) -> None:
    """Compare runs and write the comparison to a folder.

    It is written as JSON, Markdown, CSV, LaTeX and one HTML page.
    """
    task = task_of(options["runs"], options["task"])
    if task in COMPARED:
        raise CommandError(f"a report of {task}; use `vlmheads eval compare`")
    from vlmheads_eval.compare import compared
    from vlmheads_eval.report.figures import pictures_of
    from vlmheads_eval.report.page import write_report
    from vlmheads_eval.report.tables import print_comparison
    from vlmheads_eval.run_folder import ground_truth_of

    check_folder(out)
    result, scores = compared(**options)
    print_comparison(result)
    truth = options["ground_truth"] or ground_truth_of(options["runs"][0])
    for path in write_report(out, result, scores, pictures_of(truth)):
        click.echo(printable(path))


def _read_of(options: Mapping[str, Any]) -> list[Path]:
    """Return the files that a comparison reads."""
    return [file for run in options["runs"] for file in files_of(run)] + [*options["ground_truth"]]


@click.command("run")
@click.argument("spec")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", help="Replaces the spec's data, for example your COCO folder.")
@click.option("--num", type=click.IntRange(1), help="Replaces the spec's number of images.")
@click.option("--seed", type=SEED, help="Replaces the spec's seed, for another draw of images.")
@click.option("--device", help="For example cpu or cuda:0.")
@one_line_errors
def run(
    spec: str, out: Path, data: str | None, num: int | None, seed: int | None, device: str | None
) -> None:
    """Run SPEC, a YAML file or the name of a shipped one, and report. Call it again to resume."""
    from dataclasses import replace

    from vlmheads_eval.report.tables import print_comparison
    from vlmheads_eval.run_folder import PREDICTIONS, failures
    from vlmheads_eval.sweep import read_sweep, run_sweep

    sweep = read_sweep(spec)
    check_folder(out)
    for model in sweep.models:
        quiet_loading(model)
    if data:
        sweep = replace(sweep, data=(data,))
    if num:
        sweep = replace(sweep, num=num)
    if seed is not None:
        sweep = replace(sweep, seed=seed)
    for folder in run_sweep(sweep, out, device=device):
        print_comparison(json.loads((folder / "comparison.json").read_text("utf-8")))
        click.echo(printable(folder / "report.html"))
    failed = sum(len(failures(path.parent)) for path in out.glob(f"*/*/*/{PREDICTIONS}"))
    if failed:
        click.echo(f"{failed} samples failed; see the lines above", err=True)
        raise click.exceptions.Exit(2)


@click.group(cls=OneLineGroup)
def evaluate() -> None:
    """Predict, score, compare and report hallucination."""


for command in (predict, score, compare, report, run, requests, show_data):
    evaluate.add_command(command)
