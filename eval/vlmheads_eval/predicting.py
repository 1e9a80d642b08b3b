"""Asking a model about every sample of a run, resumably and on any number of processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vlmheads.errors import VlmHeadsError
from vlmheads_eval import run_folder
from vlmheads_eval.samples import Sample


class Answer(NamedTuple):
    """What a model said: text, generated tokens, and whether the token limit cut it off."""

    text: str
    tokens: int
    at_limit: bool


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
