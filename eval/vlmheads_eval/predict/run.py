"""Asking a model about every sample of a run, resumably and on any number of processes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import click

from vlmheads.errors import VlmHeadsError
from vlmheads.images import read_image
from vlmheads_eval import run_folder
from vlmheads_eval.data import Material, Sample, load_material
from vlmheads_eval.predict.model import (
    Answer,
    describe_plugins,
    load_generator,
    model_fingerprint,
    versions,
)
from vlmheads_eval.records import file_sha256


class Processes(Protocol):
    """The processes of a job; `accelerate.PartialState` is one."""

    process_index: int
    num_processes: int

    def wait_for_everyone(self) -> None:
        """Return when all processes have come here."""


class OneProcess:
    """A job of one process."""

    process_index = 0
    num_processes = 1

    def wait_for_everyone(self) -> None:
        """Return at once."""


Describe = Callable[[Sequence[Any], Sequence[str]], Sequence[Answer]]
Read = Callable[[Path], Any]


def predict(
    run: Path,
    config: Mapping[str, Any],
    samples: Sequence[Sample],
    describe: Describe,
    *,
    read: Read,
    batch_size: int = 8,
    processes: Processes | None = None,
    retry_failed: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Ask about all samples that have no prediction yet, and keep each answer as it comes.

    May be killed at any point and called again, with another batch size or number of processes.
    A sample whose image cannot be read is recorded with its error and the rest goes on.

    Args:
        run: the run folder.
        config: all that decides the answers; a run begun with another one is refused.
        samples: what to ask, the same on every process.
        describe: from images and prompts to answers.
        read: from an image file to an image; raises VlmHeadsError for what is none.
        batch_size: samples asked at once; halved when memory runs out.
        processes: of the job; one by default.
        retry_failed: ask again about samples that failed.
        progress: is told after every batch how many of this process's samples are done.
    """
    job = processes or OneProcess()
    keys = [sample.key for sample in samples]
    if len(set(keys)) != len(keys):
        raise VlmHeadsError("two samples of one name", "a name of its own for each")
    with ExitStack() as held:
        if job.process_index == 0:
            held.enter_context(run_folder.only_writer(run / run_folder.LOCK))
            run_folder.open_config(run, config)
            run_folder.merge(run)
        job.wait_for_everyone()
        finished = set(run_folder.done(run, failed=not retry_failed))
        job.wait_for_everyone()  # Nobody writes before everybody has read what is done.
        pending = [sample for sample in samples if sample.key not in finished]
        mine = pending[job.process_index :: job.num_processes]
        _ask(run, mine, describe, read, batch_size, job, progress)
        job.wait_for_everyone()
        if job.process_index == 0:
            run_folder.merge(run)
            missing = set(keys) - set(run_folder.done(run))
            if missing:
                raise VlmHeadsError(f"{len(missing)} samples without a prediction", "none")
            run_folder.put_in_order(run, keys)


def _ask(
    run: Path,
    samples: Sequence[Sample],
    describe: Describe,
    read: Read,
    batch_size: int,
    job: Processes,
    progress: Callable[[int, int], None],
) -> None:
    path = run_folder.rank_file(run, job.process_index, job.num_processes)
    if not samples:
        return
    with ExitStack() as held:
        if job.num_processes > 1:
            held.enter_context(run_folder.only_writer(path))
        file = held.enter_context(path.open("a", encoding="utf-8"))
        done = 0
        for batch in _batches(samples, batch_size):
            records, readable, images = [], [], []
            for sample in batch:
                try:
                    images.append(read(sample.image))
                    readable.append(sample)
                except VlmHeadsError as error:
                    records.append(_record(sample, {"error": " ".join(str(error).split())}))
            answers = _halving(describe, images, [sample.prompt for sample in readable])
            for sample, answer in zip(readable, answers, strict=True):
                said = {sample.answer_field: answer.text, **answer._asdict()}
                said.pop("text")
                records.append(_record(sample, said))
            run_folder.append(file, records)
            done += len(batch)
            progress(done, len(samples))


def _record(sample: Sample, said: Mapping[str, Any]) -> dict[str, Any]:
    return {"sample": sample.key, **sample.record, **said}


def _batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _halving(describe: Describe, images: list[Any], prompts: list[str]) -> list[Answer]:
    """Describe a batch, in halves where the whole does not fit into memory."""
    if not images:
        return []
    try:
        return list(describe(images, prompts))
    except (MemoryError, RuntimeError) as error:
        if len(images) == 1 or not _out_of_memory(error):
            raise
    half = len(images) // 2
    first = _halving(describe, images[:half], prompts[:half])
    return first + _halving(describe, images[half:], prompts[half:])


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


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
    workspace = workspace or out / "data"

    def load() -> Material:
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
        "ground_truth": [
            run_folder.relative_to_run(path, out, workspace) for path in material.ground_truth
        ],
        "model": model,
        "model_files": model_fingerprint(model),
        "plugins": describe_plugins(plugins),
        "control": control,
        "control_seed": control_seed if control == "random-heads" else None,
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "dtype": dtype,
        "seed": seed,
        "versions": versions(),
        "samples": [sample.key for sample in material.samples],
    }
    run_folder.check_config(out, config)  # Before a large model is loaded for nothing.
    describe = load_generator(
        model,
        plugins,
        max_new_tokens,
        control=control,
        control_seed=control_seed,
        dtype=dtype,
        device=device or _own_device(processes),
    )
    with _progress(processes.process_index == 0) as progress:
        predict(
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
