"""`vlmheads caption`: describe image files, plain or mitigated, or both side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmheads.commands.endpoint_options import endpoint_of, endpoint_options
from vlmheads.commands.job_options import job_options, loading_options
from vlmheads.commands.show import model_options
from vlmheads.errors import VlmHeadsError
from vlmheads.printable import printable

if TYPE_CHECKING:
    from vlmheads.endpoint.settings import Endpoint
    from vlmheads.jobs.inputs import Found

# What only a job with an output has, with the value that means nothing was said.
_OF_JOBS: dict[str, Any] = {
    "root": None,
    "overwrite": False,
    "retry_failed": False,
    "token_budget": None,
}
# What only a model has that is loaded here.
LOCAL = tuple(
    """plugins compare dtype device device_map quantization attn batch_size token_budget""".split()
)


@click.command()
@click.argument("images", nargs=-1, required=True)
@job_options
@model_options
@loading_options
@endpoint_options
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    help="A plugin, with options if any, such as vhr:alpha=1.5; may be repeated; none for the "
    "plain model; auto for what `vlmheads presets --for MODEL` recommends. [default: auto]",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Show the plain caption next to the mitigated one, with the objects marked that only "
    "one of them names.",
)
@click.option(
    "--flag", is_flag=True, help="Mark objects that the image does not support, with their scores."
)
@click.option(
    "--drop", is_flag=True, help="Leave out clauses whose object the image does not support."
)
@click.option(
    "--threshold",
    type=float,
    help="--flag, --drop: objects with a lower score. [default: the scorer's own]",
)
@click.option(
    "--scorer",
    type=click.Path(path_type=Path),
    help="--flag, --drop: a word scorer as JSON. [default: the model's own, or p/(p+p0)]",
)
@click.option(
    "--vocabulary",
    help="--flag, --drop: what counts as an object: a file of categories with synonyms (COCO, "
    "LVIS, Objects365, or a table of words), or nouns for all noun phrases. [default: COCO's 80]",
)
@click.option(
    "--signal",
    type=click.Choice(("p-yes", "gain")),
    help="--flag, --drop of a served model: P(yes) of a question about each object, or what the "
    "image adds to the log-probability of its name. [default: p-yes]",
)
@click.option("--prompt", help='What to ask. [default: "Describe the image."]')
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def caption(images: tuple[str, ...], **options: Any) -> None:
    """Describe images, plainly or under plugins.

    IMAGES are files, folders of them, quoted patterns, or - for a list on stdin. Tars of
    webdataset, parquet files and datasets that were saved to disk are read, too. --out and
    --format txt start a job that writes the captions to files and can be stopped and resumed:
    docs/captioning-jobs.md.

    --flag and --drop measure on the plain model how far the image supports each object that the
    caption names: docs/words.md says how often they are right. With --endpoint they ask the served
    model whether each object is there: docs/serving.md.

    An image that cannot be read is reported, the others are done, and the exit code is 2.
    """
    from vlmheads.commands import job

    endpoint = endpoint_of(options, LOCAL)
    try:
        _caption(images, endpoint=endpoint, **options)
    except KeyboardInterrupt:
        if options["out"] is None and options["kind"] is None:
            raise
        job.interrupted()


def _caption(
    images: tuple[str, ...],
    *,
    endpoint: Endpoint | None,
    model: str,
    dtype: str,
    device: str | None,
    device_map: str | None,
    quantization: str | None,
    attn: str | None,
    plugins: tuple[str, ...],
    compare: bool,
    flag: bool,
    drop: bool,
    threshold: float | None,
    scorer: Path | None,
    vocabulary: str | None,
    prompt: str | None,
    max_new_tokens: int,
    batch_size: int,
    as_json: bool,
    recursive: bool,
    **about: Any,
) -> None:
    from vlmheads.caption import PROMPT, Captioner
    from vlmheads.commands import show
    from vlmheads.commands.flags import WordOptions
    from vlmheads.commands.job import Ask, run_job
    from vlmheads.commands.printed import print_captions
    from vlmheads.jobs.processes import launched, own_device
    from vlmheads.jobs.run import Plan
    from vlmheads.recommended import AUTO

    is_job = about["out"] is not None or about["kind"] is not None
    _check(about, is_job=is_job, as_json=as_json)
    show.quiet_loading(model)
    processes = launched()
    first = processes.process_index == 0
    if processes.num_processes > 1 and (not is_job or device_map is not None):
        raise VlmHeadsError(
            f"{processes.num_processes} processes "
            + ("with --device-map" if is_job else "without --out"),
            "one process" if is_job else "an output that they share",
        )
    found = _found(images, recursive, processes)
    loading: dict[str, Any] = {"dtype": dtype, "quantization": quantization, "attn": attn}
    ask = Ask(
        model,
        loading,
        prompt or PROMPT,
        max_new_tokens,
        compare,
        about["out"],
        about["kind"],
        about["root"],
        Plan(
            batch_size,
            about["token_budget"],
            about["workers"],
            about["overwrite"],
            about["retry_failed"],
            about["image_column"],
        ),
    )
    if about["image_column"] is not None and not found.archives:
        raise VlmHeadsError("--image-column without a table", "a parquet file or saved dataset")
    if endpoint is not None:
        from vlmheads.commands.served import caption_served, words_asked

        if processes.num_processes > 1:
            raise VlmHeadsError("several processes with --endpoint", "one, and --concurrency")
        words = words_asked(
            flag=flag,
            drop=drop,
            threshold=threshold,
            scorer=scorer,
            signal=about["signal"],
            vocabulary=vocabulary,
        )
        caption_served(found, ask, endpoint, words, as_json=as_json)
        return
    if about["signal"] is not None:
        raise VlmHeadsError("--signal without --endpoint", "a served model")
    if is_job and first:
        ask.check(found)
    acting = () if plugins == ("none",) else plugins or AUTO
    if processes.num_processes > 1:
        device = device or own_device(processes)
    captioner = Captioner.from_pretrained(
        model, acting, device=device, device_map=device_map, **loading
    )
    word_options = WordOptions.of(
        captioner,
        flag=flag,
        drop=drop,
        threshold=threshold,
        scorer=scorer,
        vocabulary=vocabulary,
    )
    if first and (notice := found.notice()):
        click.echo(f"note: {printable(notice)}", err=True)
    if is_job:
        run_job(found, ask, captioner, word_options, processes)
    else:
        print_captions(found, ask, captioner, word_options, as_json)


def _check(about: dict[str, Any], *, is_job: bool, as_json: bool) -> None:
    """Refuse options that would have no effect."""
    if is_job and as_json:
        raise VlmHeadsError("--json with --out", "one of the two; FILE.jsonl is JSON")
    said = [name for name, nothing in _OF_JOBS.items() if about[name] != nothing]
    if said and not is_job:
        raise VlmHeadsError(f"--{said[0].replace('_', '-')} without --out", "a job with an output")


def _found(images: tuple[str, ...], recursive: bool, processes: Any) -> Found:
    """Find the images; the list on stdin is read by the first process and given to the others."""
    from vlmheads.jobs.inputs import find, listed
    from vlmheads.jobs.processes import shared

    names = list(images)
    if "-" in names:
        content = sys.stdin.buffer.read() if processes.process_index == 0 else b""
        listing = shared(listed(content), processes)
        if not listing:
            raise VlmHeadsError("nothing on standard input", "paths of images, one a line")
        place = names.index("-")
        names[place : place + 1] = listing
    return find(names, recursive=recursive)
