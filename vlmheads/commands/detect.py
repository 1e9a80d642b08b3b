"""`vlmheads detect`: measure the heads of a model on images."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmheads.commands.show import model_options

if TYPE_CHECKING:
    from rich.console import Console

    from vlmheads.commands.measurement import Measurement
    from vlmheads.headmap import HeadMap

# Those of vlmheads.commands.measures, which loads torch.
POSITIVE, FACTOR = click.FloatRange(0, 1e9), click.FloatRange(-1e9, 1e9)
_MEASURES = (
    *("vhd", "sinks", "dominance", "attention-sink", "attribution", "words"),
    *("select", "composition", "visualness", "overconfidence"),
)
_WORDS = ("attribution", "select", "composition", "overconfidence")
# Options that only some measures take; given with another one they would have no effect.
_TAKEN_BY = {
    "filtered": ("vhd",),
    "tau": ("sinks",),
    "max_new_tokens": ("dominance", "words", "visualness", *_WORDS),
    "words": _WORDS,
    "coco": _WORDS,
    "factor": ("attribution", "select"),
    "method": ("select",),
    "objective": ("select", "composition"),
    "towards": ("select",),
    "count": ("select", "composition"),
    "heads": ("composition",),
    "against": ("visualness",),
    "overlay": ("sinks",),
}


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--recursive", is_flag=True, help="Enter folders inside of folders.")
@model_options
@click.option("--measure", default="vhd", show_default=True, type=click.Choice(_MEASURES))
@click.option("--prompt", help='What to ask. [default: "Describe the image."]')
@click.option("--filtered", is_flag=True, help="vhd: set negative heads to 0, as VHR does.")
@click.option(
    "--tau",
    default=20.0,
    show_default=True,
    type=POSITIVE,
    help="sinks: the least φ of a sink token.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="dominance, words, attribution: length of the answer. [default: 16, 128, 128]",
)
@click.option(
    "--words",
    type=click.Path(path_type=Path),
    help='attribution: JSON lines of "image", "grounded", "hallucinated" and maybe "caption".',
)
@click.option(
    "--coco",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="attribution: a COCO folder with the objects in the images, for the words of captions "
    "that the model generates. [default: the folder of the images, without --words]",
)
@click.option(
    "--factor",
    default=0.0,
    show_default=True,
    type=FACTOR,
    help="attribution, select: what a head is multiplied by.",
)
@click.option(
    "--method",
    default="gradient",
    show_default=True,
    help="select: ablation, gradient, path-patching, group, greedy or cd-t.",
)
@click.option(
    "--objective",
    default="contrast",
    show_default=True,
    help="select, composition: what is to rise; contrast, grounded or hallucinated (its negative).",
)
@click.option("--towards", help="select: zero, or identity, what takes the place of a head's rest.")
@click.option(
    "--against",
    default="other",
    show_default=True,
    type=click.Choice(["other", "nothing"]),
    help="visualness: what a caption is read with beside its image.",
)
@click.option("--count", type=click.IntRange(min=1), help="How many heads to choose, at most.")
@click.option("--heads", help='composition: which heads, such as "0-7,3-5". [default: chosen]')
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the head map, safetensors.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it, layers x heads.")
@click.option(
    "--overlay", type=click.Path(path_type=Path), help="sinks: draw those of one image over it."
)
def detect(
    images: tuple[str, ...],
    recursive: bool,
    model: str,
    dtype: str,
    device: str | None,
    measure: str,
    prompt: str | None,
    filtered: bool,
    tau: float,
    max_new_tokens: int | None,
    words: Path | None,
    coco: Path | None,
    factor: float,
    method: str,
    objective: str,
    towards: str | None,
    against: str,
    count: int | None,
    heads: str | None,
    batch_size: int,
    top: int,
    as_json: bool,
    out: Path | None,
    plot: Path | None,
    overlay: Path | None,
) -> None:
    r"""Measure the heads of a model on IMAGES: files, or folders of them.

    \b
    vhd             vision-aware head divergence
    sinks           image tokens that draw attention for their norm
    dominance       attention of the answer on text against image
    attention-sink  attention on the first tokens, and dormant heads
    attribution     effect of removing each head on words that the image supports
                    and on words that it does not
    words           what the image gives each object that a caption names
    select          heads to switch off, chosen by one of six methods
    composition     which head reads from which
    visualness      words of captions that need no picture
    overconfidence  what the last layer takes back of what earlier ones were sure of
    """
    from vlmheads.caption import PROMPT, Captioner
    from vlmheads.commands import show
    from vlmheads.commands.coco_words import coco_folder, objects_of
    from vlmheads.commands.measurement import Measurement, Options
    from vlmheads.commands.measures import MEASURES, finished
    from vlmheads.errors import VlmHeadsError
    from vlmheads.jobs.inputs import find
    from vlmheads.options import pairs_of
    from vlmheads.output import FIGURES, check_output, save
    from vlmheads.printable import json_text, printable

    named = find(images, recursive=recursive)
    for _, problem in named.problems:
        raise problem
    if named.archives:
        raise VlmHeadsError(f"{named.archives[0]}, which holds many images", "image files")
    found = named.files
    if notice := named.notice():
        click.echo(f"note: {printable(notice)}", err=True)
    _refuse_idle(measure)
    if overlay is not None and (measure != "sinks" or len(found) != 1):
        raise VlmHeadsError(
            f"--overlay with --measure {measure} and {len(found)} images",
            "--measure sinks and one image",
        )
    if coco is not None and words is not None:
        raise VlmHeadsError("--coco and --words", "one of the two")
    if measure in _TAKEN_BY["coco"] and words is None:
        coco = coco or coco_folder(found)
    truth = None if coco is None else objects_of(coco)
    check_output(out, inputs=found)
    for figure in (plot, overlay):
        check_output(figure, inputs=found, suffixes=FIGURES)
    if plot is not None or overlay is not None:
        import matplotlib.figure  # noqa: F401  # Where it is missing, that is said now.
    show.quiet_loading(model)
    captioner = Captioner.from_pretrained(model, (), dtype=dtype, device=device)
    about: dict[str, Any] = {"model": model, "prompt": prompt or PROMPT}
    options = Options(
        measure,
        prompt or PROMPT,
        about,
        filtered,
        tau,
        max_new_tokens,
        factor,
        words,
        truth,
        overlay,
        method,
        objective,
        count,
        towards,
        heads=() if heads is None else pairs_of(f"--heads {heads}", heads.split(",")),
        against=against,
    )
    parts: list[Measurement] = []
    with show.progress(len(found)) as advance:
        for start in range(0, len(found), batch_size):
            batch = found[start : start + batch_size]
            parts.append(MEASURES[measure](captioner, batch, options))
            advance(len(batch))
    result = finished(captioner, Measurement.joined(parts), options)
    if as_json:
        click.echo(json_text(about | {"measure": measure} | _record(result, top)))
    else:
        _print(result, top)
    for place, writes in ((out, result.saved), (plot, result.drawn)):
        if place is not None:
            if writes is None:
                raise VlmHeadsError(f"{place} with --measure {measure}", "a measure that has such")
            save(place, writes)


def _refuse_idle(measure: str) -> None:
    """Refuse options that were given and that the measure does not take."""
    from click.core import ParameterSource

    from vlmheads.errors import VlmHeadsError

    context = click.get_current_context()
    for name, measures in _TAKEN_BY.items():
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and measure not in measures:
            raise VlmHeadsError(
                f"--{name.replace('_', '-')} with --measure {measure}",
                f"--measure {' or '.join(measures)}",
            )


def _heads(found: HeadMap, top: int) -> list[tuple[int, int, float, float]]:
    """Layer, head, mean and standard error of the heads with the largest mean."""
    error = found.standard_error()
    best = found.top(min(top, found.mean().numel()))
    return [(layer, head, value, float(error[layer, head])) for layer, head, value in best]


def _record(result: Measurement, top: int) -> dict[str, Any]:
    """Everything as plain values; what is not a number is null."""
    from vlmheads.commands.measurement import mean_and_error

    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    figures = {name: mean_and_error(values) for name, values in result.figures.items()}
    maps = {
        name: {
            "images": item.images,
            "mean": [[plain(value) for value in row] for row in item.mean().tolist()],
            "top": [
                {
                    "layer": layer,
                    "head": head,
                    "value": plain(value),
                    "standard_error": plain(error),
                }
                for layer, head, value, error in _heads(item, top)
            ],
        }
        for name, item in result.maps.items()
    }
    return {
        "figures": {
            name: {"mean": plain(mean), "standard_error": plain(error)}
            for name, (mean, error) in figures.items()
        },
        "notes": result.notes,
        "maps": maps,
    } | {
        key: value
        for key, value in (
            ("captions", result.records),
            ("conclusion", result.conclusion),
            ("tables", {title: asdict(grid) for title, grid in result.tables.items()}),
            ("answer", result.answer),
        )
        if value
    }


def _print(result: Measurement, top: int) -> None:
    """Print the figures, the tables, the largest heads, and what follows from them."""
    from rich.console import Console
    from rich.table import Table

    from vlmheads.commands import show
    from vlmheads.commands.measurement import mean_and_error
    from vlmheads.printable import plain

    console = Console()
    if result.conclusion:
        console.print(result.conclusion, markup=False, highlight=False)
        return
    if result.figures:
        counts = sorted({len(values) for values in result.figures.values()})
        images = f"{counts[0]} image{'s' * (counts[0] != 1)}" if len(counts) == 1 else "images"
        figures = Table(title=f"mean of {images}")
        figures.add_column("figure")
        for column in ("mean", "standard error"):
            figures.add_column(column, justify="right")
        for label, values in result.figures.items():
            mean, error = mean_and_error(values)
            figures.add_row(label, f"{mean:.3f}", _number(error))
        console.print(figures)
    for label, note in result.notes.items():
        console.print(plain(f"{label}: {note}"), highlight=False)
    if result.records:
        show.objects(console, result.records, top)
    for title, grid in result.tables.items():
        table = Table(title=plain(title))
        for index, column in enumerate(grid.columns):
            numbers = all(not isinstance(row[index], str) for row in grid.rows)
            table.add_column(plain(column), justify="right" if numbers else "left")
        for row in grid.rows:
            table.add_row(*(plain(_cell(value)) for value in row))
        console.print(table)
    if result.maps:
        _heads_table(console, result, top)
    if result.answer:
        console.print(plain(result.answer), highlight=False)


def _heads_table(console: Console, result: Measurement, top: int) -> None:
    """Print the heads with the largest values of the main map."""
    from rich.table import Table

    from vlmheads.printable import plain

    name, main = next(iter(result.maps.items()))
    images = f"{main.images} image{'s' * (main.images != 1)}"
    table = Table(title=plain(f"{name}, mean of {images}, {main.geometry}"))
    for column in ("layer", "head", name, "standard error"):
        table.add_column(column, justify="right")
    for layer, head, value, error in _heads(main, top):
        table.add_row(str(layer), str(head), _number(value), _number(error))
    console.print(table)


def _cell(value: Any) -> str:
    """Return a value of a table as text."""
    if value is None:
        return "-"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
