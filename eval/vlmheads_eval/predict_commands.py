"""`vlmheads eval predict`: ask a model about many images, resumably."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmheads_eval.refusal import one_line_errors

if TYPE_CHECKING:
    from vlmheads_eval.samples import Material

AUTO_BATCH = 32  # Where "auto" begins; a batch that does not fit is halved.


def _batch_size(context: click.Context, option: click.Parameter, value: str) -> int:
    if value == "auto":
        return AUTO_BATCH
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter("a number from 1, or auto")
    return int(value)


@click.command()
@click.option(
    "--data",
    multiple=True,
    default=("testbed:test",),
    show_default=True,
    help="testbed:test, testbed:counterfactual, a COCO folder, POPE question files (give it more "
    "than once), or AMBER's data folder.",
)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option("--model", default="embedded", show_default=True)
@click.option("--plugin", "plugins", multiple=True, help='Such as vhr or "vhr:alpha=1.5".')
@click.option("--control", type=click.Choice(("random-heads", "text-only")))
@click.option("--control-seed", default=0, show_default=True, help="Of the random heads.")
@click.option("--task", default="caption", show_default=True, help="caption, pope or amber.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--num", type=click.IntRange(1), help="So many images, drawn by the seed.")
@click.option("--ids", type=click.Path(exists=True, path_type=Path), help="Just these image ids.")
@click.option("--seed", default=0, show_default=True)
@click.option("--prompt", help="For questions a frame with {question} in it.")
@click.option("--max-new-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option("--batch-size", default="8", show_default=True, callback=_batch_size)
@click.option("--retry-failed", is_flag=True, help="Ask again about images that failed.")
@click.option("--dtype", default="auto", show_default=True)
@click.option("--device", help="Such as cpu or cuda:0.")
@one_line_errors
def predict(**options: Any) -> None:
    """Ask a model about images and keep every answer in the folder OUT.

    It can be stopped at any point and called again to go on. Start it with `accelerate launch -m
    vlmheads_eval predict ...` to share the work between several processes.
    """
    run_prediction(**options)


def run_prediction(
    data: tuple[str, ...],
    images: Path | None,
    model: str,
    plugins: tuple[str, ...],
    control: str | None,
    control_seed: int,
    task: str,
    out: Path,
    num: int | None,
    ids: Path | None,
    seed: int,
    prompt: str | None,
    max_new_tokens: int,
    batch_size: int,
    retry_failed: bool,
    dtype: str,
    device: str | None,
    workspace: Path | None = None,
) -> None:
    """Do what `vlmheads eval predict` does.

    What has to be made for it, scenes or questions, goes into the workspace, by default OUT/data.
    """
    from vlmheads.images import read_image
    from vlmheads_eval import generation
    from vlmheads_eval.hashes import file_sha256
    from vlmheads_eval.predicting import predict as predict_run
    from vlmheads_eval.run_folder import check_config, relative_to_run
    from vlmheads_eval.samples import load_material

    workspace = workspace or out / "data"

    def load() -> "Material":
        return load_material(
            data,
            task,
            workspace=workspace,
            images=images,
            prompt=prompt,
            num=num,
            ids=ids,
            seed=seed,
        )

    processes = _processes()
    if processes.process_index == 0:
        load()  # Scenes and questions that have to be made are made by one process.
    processes.wait_for_everyone()
    material = load()
    truth = [path for path in material.ground_truth if path.is_file()]
    config = {
        "task": task,
        "data": list(data),
        "data_sha256": {path.name: file_sha256(path) for path in truth},
        "ground_truth": [relative_to_run(path, out, workspace) for path in material.ground_truth],
        "model": model,
        "model_files": generation.model_fingerprint(model),
        "plugins": generation.describe_plugins(plugins),
        "control": control,
        "control_seed": control_seed if control == "random-heads" else None,
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "dtype": dtype,
        "seed": seed,
        "versions": generation.versions(),
        "samples": [sample.key for sample in material.samples],
    }
    check_config(out, config)  # Before a large model is loaded for nothing.
    describe = generation.load_generator(
        model,
        plugins,
        max_new_tokens,
        control=control,
        control_seed=control_seed,
        dtype=dtype,
        device=device or _own_device(processes),
    )
    with _progress(processes.process_index == 0) as progress:
        predict_run(
            out,
            config,
            material.samples,
            describe,
            read=read_image,
            batch_size=batch_size,
            processes=processes,
            retry_failed=retry_failed,
            progress=progress,
        )
    if processes.process_index == 0:
        click.echo(f"{len(material.samples)} predictions in {out}")


def _processes() -> Any:
    """Return the processes of this job: accelerate's where it was launched by it."""
    from vlmheads_eval.predicting import OneProcess

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return OneProcess()
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    # A process that is done waits for the slowest, however long that takes.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))


def _own_device(processes: Any) -> str | None:
    device = getattr(processes, "device", None)
    return None if device is None else str(device)


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and time left on standard error."""
    if not shown:
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), Remaining())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, rate="")

        def update(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield update
