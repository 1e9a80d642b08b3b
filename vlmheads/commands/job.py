"""`vlmheads caption` into a file or folder: what it prints, and how it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmheads.errors import VlmHeadsError
from vlmheads.printable import one_line, plain, printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmheads.caption import Captioner
    from vlmheads.commands.flags import WordOptions
    from vlmheads.jobs.inputs import Found
    from vlmheads.jobs.outputs import Output
    from vlmheads.jobs.run import Plan, Progress, Summary, Work

SHOWN = 10  # failures that are printed; the others are in the file alone
INTERRUPTED = 130


@dataclass(frozen=True)
class Ask:
    """What the command line says of a job.

    Args:
        model: as the user named it.
        loading: options of loading it that determine captions.
        prompt: what to ask.
        max_new_tokens: where captions are cut off.
        compare: whether plain captions go into the records.
        out: a file or folder.
        kind: the format of the output.
        root: what names in it are relative to.
        plan: how to run.
        server: what tells the server and its model from others; None for a model loaded here.
    """

    model: str
    loading: dict[str, Any]
    prompt: str
    max_new_tokens: int
    compare: bool
    out: Path | None
    kind: str | None
    root: Path | None
    plan: Plan
    server: Mapping[str, Any] | None = None

    def served_by(self, server: Mapping[str, Any]) -> Ask:
        """Return the same for a model behind a server."""
        return replace(self, loading={}, server=server)

    def locate(self, found: Found) -> tuple[Output, Path]:
        """Return where captions go; what cannot be is refused before a model is loaded."""
        from vlmheads.jobs.api import locate_output
        from vlmheads.jobs.outputs import TXT

        output, root = locate_output(
            found, self.out, self.kind, self.root, anew=self.plan.overwrite
        )
        if self.compare and output.format == TXT:
            raise VlmHeadsError("--compare with --format txt", "a format that holds two captions")
        return output, root

    def settings(self) -> dict[str, Any]:
        """Return what is known of the settings before a model is loaded."""
        from vlmheads.model.fingerprint import model_fingerprint

        return {
            "model": self.model,
            **(self.server or {"files": model_fingerprint(self.model)}),
            **self.loading,
            "prompt": self.prompt,
            "max_new_tokens": self.max_new_tokens,
            "compare": self.compare,
        }

    def check(self, found: Found) -> None:
        """Refuse an output that cannot be, is in use or has other settings; leave nothing behind.

        What needs the model is checked when it is there.
        """
        from vlmheads.jobs import resume
        from vlmheads.jobs.run import check
        from vlmheads.output import check_new, writing

        output, root = self.locate(found)
        check(found, root, output)
        with ExitStack() as stack:
            stack.enter_context(writing(output.place))
            if output.state.exists():
                stack.enter_context(resume.held(output))
            else:
                check_new(output.state)
            if not self.plan.overwrite:
                resume.refuse_others(output, self.settings(), whole=False)


def run_job(
    found: Found,
    ask: Ask,
    captioner: Captioner,
    words: WordOptions | None,
    processes: Any,
) -> None:
    """Run a job and print how it ended; exits with 2 where images failed."""
    from vlmheads.caption import Caption
    from vlmheads.jobs.api import words_of, work_of

    def annotate(caption: Caption) -> dict[str, Any]:
        if words is None:
            return {}
        return words_of(caption, words.scorer.threshold, drop=words.drop)

    work = work_of(
        captioner,
        ask.settings(),
        prompt=ask.prompt,
        max_new_tokens=ask.max_new_tokens,
        compare=ask.compare,
        scorer=None if words is None else words.scorer,
        annotate=annotate,
        about={"drop": words is not None and words.drop},
    )
    if processes.process_index == 0:
        work = _noticing(work, captioner, ask.model)
    finish_job(found, ask, work, processes, flagged=words is not None)


def finish_job(found: Found, ask: Ask, work: Work, processes: Any, *, flagged: bool) -> None:
    """Run a job whose work is known, and print how it ended; exits with 2 where images failed."""
    from vlmheads.jobs.run import run

    output, root = ask.locate(found)
    first = processes.process_index == 0
    with _progress(output, first) as progress:
        summary = run(found, root, output, work, ask.plan, processes=processes, progress=progress)
    if first:
        click.echo(summed_up(summary, output, flagged=flagged))
        if summary.failed:
            sys.exit(2)


def _noticing(work: Work, captioner: Captioner, model: str) -> Work:
    """Say once that a packaged model knows only its own scenes, where an image is none of them."""
    from vlmheads.commands.printed import notice

    said, plain = False, work.describe
    assert callable(plain)

    def describe(images: Sequence[Image]) -> Sequence[Mapping[str, Any]]:
        nonlocal said
        if not said and (text := notice(captioner, model, images)):
            click.echo(text, err=True)
            said = True
        return plain(images)

    return replace(work, describe=describe)


def summed_up(summary: Summary, output: Output, *, flagged: bool) -> str:
    """Say in one line how a job ended."""
    parts = [f"{summary.done} captioned", f"{summary.skipped} had a caption"]
    parts.append(f"{summary.failed} failed")
    if flagged:
        parts.append(f"{summary.flagged} objects flagged")
    line = f"{', '.join(parts)}: {printable(output.place)}"
    if summary.failed:
        line += f"; failures are in {printable(output.failed)}"
    if summary.earlier:
        line += f" ({summary.earlier} of them from before: --retry-failed tries them again)"
    return line


def interrupted() -> None:
    """Say how to go on after Ctrl-C, and end with the exit code of an interrupt."""
    click.echo(
        "interrupted: what is finished is kept, and the same command (without --overwrite) goes on",
        err=True,
    )
    sys.exit(INTERRUPTED)


@contextmanager
def _progress(output: Output, first: bool) -> Iterator[Progress]:
    """Show images done, images a second and time left on a terminal, and failures everywhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
    hidden = not (first and console.is_terminal)
    started = time.monotonic()
    done = failed = 0
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=None, said="")

        def update(count: int, total: int | None, failure: str) -> None:
            nonlocal done, failed
            done += count
            if failure:
                failed += 1
                if failed <= SHOWN:
                    console.print(plain(f"error: {one_line(failure)}"), soft_wrap=True)
                elif failed == SHOWN + 1:
                    console.print(plain(f"further failures are in {output.failed}"), soft_wrap=True)
            rate = done / max(time.monotonic() - started, 1e-9)
            of = "" if total is None else f"/{total}"
            bar.update(task, completed=done, total=total, said=f"{done}{of} {rate:.1f} images/s")

        yield update
