"""A captioning job: every image that has no caption yet gets one, and each is stored at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from vlmheads.errors import VlmHeadsError
from vlmheads.images import decode_image
from vlmheads.jobs import resume, shards, sidecars
from vlmheads.jobs.answers import KEPT, Describe, Stream, answers
from vlmheads.jobs.archives import number_of_images, require
from vlmheads.jobs.batches import Cost, Picture, batches
from vlmheads.jobs.inputs import Found, Item, file_item, items, key_of
from vlmheads.jobs.lines import append, finite, only_writer
from vlmheads.jobs.outputs import METADATA, PACKED, PARQUET, TXT, Output
from vlmheads.jobs.processes import OneProcess, Processes, falls_to
from vlmheads.output import writing

Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class Work:
    """What is done to each image.

    Args:
        describe: from images to records with `text`, and whatever else is known of each; or what
            answers images one by one.
        settings: everything that determines a record, as JSON has it.
        cost: the tokens that an image of a width and height takes, its answer included.
    """

    describe: Describe | Stream
    settings: Mapping[str, Any]
    cost: Cost | None = None


@dataclass
class Summary:
    """How a job ended.

    Args:
        done: images captioned now.
        skipped: images that had a caption.
        failed: images without a caption.
        earlier: how many of those failed before and were not tried again.
        flagged: objects in the new captions that their images do not support.
    """

    done: int = 0
    skipped: int = 0
    failed: int = 0
    earlier: int = 0
    flagged: int = 0

    def count(self, record: Mapping[str, Any]) -> None:
        """Add what a new line of captions or failures says."""
        if "error" in record:
            self.failed += 1
        else:
            self.done += 1
            self.flagged += sum(bool(word["flagged"]) for word in record.get("words", ()))


@dataclass(frozen=True)
class Plan:
    """How a job is run.

    Args:
        batch_size: images per generation at most; halved when memory runs out.
        budget: tokens per generation at most; see `batches`.
        workers: threads that read images.
        overwrite: drop what the output holds, and start anew.
        retry_failed: try images that failed before.
        column: the column of images in parquet files.
    """

    batch_size: int = 8
    budget: int | None = None
    workers: int = 4
    overwrite: bool = False
    retry_failed: bool = False
    column: str | None = None


def run(
    found: Found,
    root: Path,
    output: Output,
    work: Work,
    plan: Plan,
    *,
    processes: Processes | None = None,
    progress: Progress = lambda done, total, failure: None,
) -> Summary:
    """Caption all images that have no caption yet, and store each batch when it is done.

    It may be killed at any point and called again, with another batch size or number of processes.

    Args:
        found: the images; the same on every process.
        root: what their names in the output are relative to.
        output: where captions go.
        work: what is done to each image.
        plan: how.
        processes: of the job; one by default.
        progress: called with the images that were done or failed since the last call, how many
            there are for this process, None where nobody knows, and what is wrong with one.

    Returns:
        What was done, on the first process by all of them.

    Raises:
        VlmHeadsError: other settings than the job began with, another job on the same output, an
            output that cannot be written, or a model that fails at image after image.
    """
    job = processes or OneProcess()
    check(found, root, output)
    with ExitStack() as stack:
        stack.enter_context(writing(output.place, KEPT))
        if job.process_index == 0:
            output.state.mkdir(parents=True, exist_ok=True)
            stack.enter_context(resume.held(output))
            resume.begin(output, work.settings, root, overwrite=plan.overwrite)
            resume.merge(output)
        job.wait_for_everyone()
        task = _Task(found, root, output, work, plan, job, progress)
        task.look_up()
        job.wait_for_everyone()  # No process writes before all have read what is done.
        task.caption()
        job.wait_for_everyone()
        if job.process_index == 0:
            _complete(task, resume.merge(output))
        job.wait_for_everyone()
    return task.summary


def check(found: Found, root: Path, output: Output) -> None:
    """Refuse what cannot be before anything is written.

    Raises:
        VlmHeadsError: images and an output that do not go together, or a missing package.
    """
    key_of(found.base, root)
    if output.format == METADATA and found.archives:
        raise VlmHeadsError(
            f"--format metadata for {found.archives[0]}, which holds many images",
            "image files below the folder of metadata.jsonl",
            "choose --format parquet or webdataset",
        )
    if output.format == TXT and output.place == root and found.archives:
        raise VlmHeadsError(
            f"text files beside the images of {found.archives[0]}", "image files", "pass --out"
        )
    if output.format in PACKED:
        require("datasets" if output.format == PARQUET else "webdataset", output.format)


def _complete(task: _Task, merged: Sequence[Mapping[str, Any]]) -> None:
    """Put the output of all processes into its final form, and sum up."""
    output, summary = task.output, task.summary
    if task.job.num_processes > 1:
        task.summary = summary = Summary()
        for record in merged:
            summary.count(record)
    tried = summary.failed
    standing = resume.settle_failures(output, task.up_to_date)
    summary.failed = len(standing.keys() & set(task.keys))
    summary.earlier = max(0, summary.failed - tried)
    summary.skipped = max(0, len(task.keys) - summary.done - summary.failed)
    resume.put_in_order(output, task.keys)
    if output.format in PACKED:
        changed = shards.pack(output, task.found, task.root, task.keys, task.plan.column)
        summary.failed += changed
        if changed:
            task.progress(
                0,
                None,
                f"{changed} images changed while they were captioned; run the same command again",
            )
    resume.finish(output, task.work.settings, task.root)


class _Task:
    """One process's part of a job."""

    def __init__(
        self,
        found: Found,
        root: Path,
        output: Output,
        work: Work,
        plan: Plan,
        job: Processes,
        progress: Progress,
    ) -> None:
        self.found, self.root, self.output, self.work, self.plan = found, root, output, work, plan
        self.job, self.progress = job, progress
        self.summary = Summary()
        self.keys: list[str] = []  # of all processes, in order
        self.seen: set[str] = set()
        self.up_to_date: set[str] = set()  # images that have a caption of what they are now

    def look_up(self) -> None:
        """Read what is done and what failed, and choose the files that are still to do."""
        self.captioned = resume.captioned(self.output)
        self.failures = resume.failures(self.output)
        self.replaces = resume.settings_of(self.output)["replaces"]
        every = [file_item(path, self.root) for path in self.found.files]
        if self.output.format == TXT:
            every = sidecars.without_clashes(every, self.output)
        self.files = [item for item in every if self._to_do(item)]
        counts = [number_of_images(path) for path in self.found.archives]
        self.total: int | None = None
        if None not in counts and self.found.pairs is None:
            more = sum(count or 0 for count in counts) / self.job.num_processes
            self.total = len(self.files) + round(more) + len(self.found.problems)

    def _to_do(self, item: Item) -> bool:
        """Whether an image falls to this process and has no caption yet; each is asked once."""
        if item.key in self.seen:
            return False
        self.seen.add(item.key)
        self.keys.append(item.key)
        mine, failure = falls_to(item.key, self.job), self.failures.get(item.key)
        if not mine and failure is None:
            return False
        done = self.captioned.get(item.key)
        same = done is not None and resume.unchanged(item, done.size, done.modified, done.checksum)
        if self.output.format == TXT:
            same = sidecars.is_there(self.output, item, done, same, self.replaces)
        if same or not mine:
            self.up_to_date |= {item.key} if same else set()
            return False
        source = (failure or {}).get("source")
        if item.problem or not source or self.plan.retry_failed:
            return True
        return not resume.unchanged(item, source["bytes"], source["modified"], source["crc32"])

    def _items(self) -> Iterator[Item]:
        """Yield what this process has to do: files, then what archives hold."""
        yield from self.files
        others = replace(self.found, files=[])
        for item in items(others, self.root, column=self.plan.column):
            if self._to_do(item):
                yield item
            else:
                self.progress(1, self.total, "")

    def caption(self) -> None:
        """Caption what is to do, a batch at a time."""
        lines, failed = resume.files_of(self.output, self.job)
        with ExitStack() as stack:
            if self.job.num_processes > 1:
                stack.enter_context(only_writer(lines))
            lines.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(lines.open("a", encoding="utf-8"))
            plan, describe = self.plan, self.work.describe
            source = batches(
                self._items(),
                plan.batch_size,
                workers=plan.workers,
                by_size=not isinstance(describe, Stream),
                budget=plan.budget,
                cost=self.work.cost,
                decode=describe.decode if isinstance(describe, Stream) else decode_image,
            )
            pictures = stack.enter_context(closing(source))
            answered = stack.enter_context(closing(answers(describe, pictures)))
            for results in answered:
                self._store(results, file, failed)

    def _store(
        self,
        results: Iterable[tuple[Picture, Mapping[str, Any] | VlmHeadsError]],
        file: IO[str],
        failed: Path,
    ) -> None:
        """Write down what came of a few images."""
        records, errors = [], []
        for picture, found in results:
            if not isinstance(found, VlmHeadsError) and not str(found["text"]).strip():
                found = VlmHeadsError(f"{picture.item.key} got an empty caption", "words")
            if isinstance(found, VlmHeadsError):
                errors.append(self._failure(picture, found))
            else:
                record = {"file_name": picture.item.key, **found, "source": picture.source}
                records.append(finite(record))
        if self.output.format == TXT:
            sidecars.clear(self.output, records)
        append(file, records)
        if self.output.format == TXT:
            sidecars.write(self.output, records)
        if errors:
            with failed.open("a", encoding="utf-8") as listing:
                append(listing, errors)
        for record in (*records, *errors):
            self.summary.count(record)
            self.progress(1, self.total, record.get("error", ""))

    def _failure(self, picture: Picture, error: VlmHeadsError) -> dict[str, Any]:
        key = picture.item.key
        done = self.captioned.get(key)
        return {
            "file_name": key,
            "error": " ".join(str(error).split()),
            "source": picture.source,
            "previous": None if done is None else done.checksum,
        }
