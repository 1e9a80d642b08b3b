"""Predictions for every sample of a run, resumable and on any number of processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from vlmheads.endpoint.settings import Endpoint
from vlmheads.errors import VlmHeadsError
from vlmheads.images import read_image
from vlmheads.jobs.batches import in_halves
from vlmheads.jobs.lines import append, only_writer
from vlmheads.jobs.processes import OneProcess, Processes, launched, own_device
from vlmheads.model.fingerprint import model_fingerprint, settled_dtype
from vlmheads.output import check_folder
from vlmheads.printable import one_line, printable
from vlmheads_eval import run_folder
from vlmheads_eval.data import Material, Sample, load_material
from vlmheads_eval.predict.fingerprint import (
    check_images,
    data_files,
    image_digest,
    questions_sha256,
)
from vlmheads_eval.predict.model import (
    Answer,
    describe_plugins,
    load_generator,
    versions,
)
from vlmheads_eval.predict.served import Served, about_server, empty_and_cut, only_client
from vlmheads_eval.records import file_sha256

FAILURES_SHOWN = 20


Describe = Callable[[Sequence[Any], Sequence[str]], Sequence[Answer]]
Read = Callable[[Path], Any]


def predict(
    run: Path,
    config: Mapping[str, Any],
    samples: Sequence[Sample],
    describe: Describe | Served,
    *,
    read: Read,
    batch_size: int = 8,
    processes: Processes | None = None,
    retry_failed: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Predict all samples without a prediction, and store each answer at once.

    It may be killed at any point and called again, with another batch size or number of processes.
    A sample whose image cannot be read is recorded with its error, and the run goes on. The SHA-256
    of each image is recorded, too, and a run is not resumed with other images.

    Args:
        run: the run folder.
        config: everything that determines the answers; a run started with another one is refused.
        samples: what to ask; the same on every process.
        describe: from images and prompts to answers, or a served model, which reads images itself.
        read: from an image file to an image; raises VlmHeadsError for any other file.
        batch_size: samples per generation; halved when memory runs out.
        processes: of the job; one by default.
        retry_failed: retry samples that failed.
        progress: called after every batch with the number of this process's samples that are
            done, and their total.
    """
    job = processes or OneProcess()
    keys = [sample.key for sample in samples]
    if len(set(keys)) != len(keys):
        raise VlmHeadsError("two samples with the same key", "distinct keys")
    with ExitStack() as held:
        if job.process_index == 0:
            held.enter_context(only_writer(run / run_folder.LOCK))
            run_folder.open_config(run, config)
            run_folder.merge(run)
            check_images(run, samples, retry_failed=retry_failed)
        job.wait_for_everyone()
        finished = set(run_folder.done(run, failed=not retry_failed))
        job.wait_for_everyone()  # No process writes before all have read what is done.
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
    describe: Describe | Served,
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
            held.enter_context(only_writer(path))
        file = held.enter_context(path.open("a", encoding="utf-8"))
        if isinstance(describe, Served):
            for done, (sample, fields) in enumerate(describe.answers(samples), start=1):
                append(file, [_record(sample, fields)])
                progress(done, len(samples))
            return
        done = 0
        for batch in _batches(samples, batch_size):
            records, readable, images = [], [], []
            digests = {sample.image: image_digest(sample.image) for sample in batch}
            for sample in batch:
                try:
                    images.append(read(sample.image) if sample.shown else None)
                    readable.append(sample)
                except VlmHeadsError as error:
                    fields = {"error": one_line(error), **digests[sample.image]}
                    records.append(_record(sample, fields))
            answers = in_halves(
                lambda part: describe(*zip(*part, strict=True)),
                [(image, sample.prompt) for image, sample in zip(images, readable, strict=True)],
            )
            for sample, answer in zip(readable, answers, strict=True):
                fields = answer._asdict()
                fields = {
                    sample.answer_field: fields.pop("text"),
                    **fields,
                    **digests[sample.image],
                }
                records.append(_record(sample, fields))
            append(file, records)
            done += len(batch)
            progress(done, len(samples))


def _record(sample: Sample, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"sample": sample.key, **sample.record, **fields}


def _batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def run_prediction(
    *,
    data: tuple[str, ...],
    model: str,
    out: Path,
    max_new_tokens: int,
    batch_size: int,
    plugins: tuple[str, ...] = (),
    task: str = "caption",
    images: Path | None = None,
    control: str | None = None,
    control_seed: int = 0,
    num: int | None = None,
    ids: Path | None = None,
    seed: int = 0,
    prompt: str | None = None,
    retry_failed: bool = False,
    dtype: str = "auto",
    device: str | None = None,
    workspace: Path | None = None,
    endpoint: Endpoint | None = None,
) -> int:
    """Run `vlmheads eval predict` and return how many samples failed, each of which is named.

    Generated scenes and questions are written to the workspace, by default OUT/data. With an
    endpoint, its model is asked, and what is about a model loaded here is left out of account.
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

    processes = launched()
    if processes.process_index == 0:
        check_folder(out)
        load()  # One process generates the scenes and questions.
    processes.wait_for_everyone()
    material = load()
    if not material.samples:
        raise VlmHeadsError(f"{', '.join(data)} with nothing to ask about", "at least one sample")
    with ExitStack() as stack:
        client = None if endpoint is None else stack.enter_context(only_client(endpoint, processes))
        config = {
            "task": task,
            "data": list(data),
            "data_sha256": {
                run_folder.relative_to_run(file, out, workspace): file_sha256(file)
                for path in material.ground_truth
                for file in data_files(path)
            }
            | dict(material.sha256),
            "questions_sha256": questions_sha256(material),
            "ground_truth": [
                run_folder.relative_to_run(path, out, workspace) for path in material.ground_truth
            ],
            "model": model,
            "plugins": describe_plugins(plugins),
            "control": control,
            "control_seed": control_seed if control == "random-heads" else None,
            "prompt": prompt,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "samples": [sample.key for sample in material.samples],
        }
        if client is None:
            config["model_files"] = model_fingerprint(model)
            config["dtype"] = settled_dtype(dtype, device or own_device(processes))
            config["versions"] = versions(plugins)
        else:
            config |= about_server(client)
        run_folder.check_config(out, config)  # Before loading a large model in vain.
        describe: Describe | Served = (
            Served(client, max_new_tokens)
            if client is not None
            else load_generator(
                model,
                plugins,
                max_new_tokens,
                control=control,
                control_seed=control_seed,
                dtype=dtype,
                device=device or own_device(processes),
            )
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
    if processes.process_index != 0:
        return 0
    failed = run_folder.failures(out)
    for error in list(failed.values())[:FAILURES_SHOWN]:
        click.echo(f"failed: {one_line(error)}", err=True)
    if len(failed) > FAILURES_SHOWN:
        click.echo(f"... and {len(failed) - FAILURES_SHOWN} more that failed", err=True)
    total = len(material.samples)
    click.echo(
        f"{total - len(failed)} predictions in {printable(out)}"
        + (f"; {len(failed)} of {total} samples failed" if failed else "")
    )
    if endpoint is not None and (note := empty_and_cut(out, material.samples, max_new_tokens)):
        click.echo(f"note: {note}", err=True)
    return len(failed)


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar with rate and remaining time on standard error."""
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
