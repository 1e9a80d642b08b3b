"""`vlmheads detect`: measure the heads of a model on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmheads.commands.endpoint_options import flag, said
from vlmheads.commands.show import model_options

if TYPE_CHECKING:
    from vlmheads.commands.measurement import Measurement
    from vlmheads.detect.replay import Towards
    from vlmheads.detect.select import Method

POSITIVE, FACTOR = click.FloatRange(0, 1e9), click.FloatRange(-1e9, 1e9)
# Those of vlmheads.commands.measures, which loads torch, and what --help says of them.
_MEASURES = {
    "vhd": "vision-aware head divergence",
    "sinks": "image tokens that draw attention for their norm",
    "dominance": "attention of the answer on text against image",
    "attention-sink": "attention on the first tokens, and dormant heads",
    "attribution": "effect of removing each head on true and on hallucinated words",
    "words": "what the image gives each object that a caption names",
    "select": "heads to switch off, chosen by one of six methods",
    "composition": "which head reads from which",
    "visualness": "words of captions that need no picture",
    "overconfidence": "what the last layer takes back of what earlier ones gave words",
    "sink-table": "sinks by prompt and image size, which decides the tau of VAR",
    "token-exit": "captions when image tokens leave after a layer",
    "position-bias": "whether answers on two images follow their order",
    "cache-heads": "how much of the image cache each head needs",
    "vision-heads": "heads of the vision tower: how local, how spread, on what",
}
# Click keeps the lines of a paragraph as they are where the first is a backspace.
HELP = """Measure the heads of a model on images.

IMAGES are files, or folders of them.

\b
""" + "\n".join(f"{name:<14}  {about}" for name, about in _MEASURES.items())
# Measures that end in head maps.
_MAPPED = tuple(
    name
    for name in _MEASURES
    if name not in ("composition", "visualness", "overconfidence", "sink-table", "token-exit")
)
_WORDS = ("attribution", "select", "composition", "overconfidence")
# Options that only some measures take; given with another one they would have no effect.
_TAKEN_BY = {
    "filtered": ("vhd",),
    "tau": ("sinks",),
    "max_new_tokens": (
        *("dominance", "words", "visualness", "token-exit", "position-bias", "cache-heads"),
        *_WORDS,
    ),
    "words": _WORDS,
    "coco": (*_WORDS, "token-exit", "position-bias"),
    "factor": ("attribution", "select"),
    "method": ("select",),
    "objective": ("select", "composition"),
    "towards": ("select",),
    "count": ("select", "composition"),
    "heads": ("composition",),
    "against": ("visualness",),
    "overlay": ("sinks",),
    "out": (*_MAPPED, "visualness"),
    "plot": (*_MAPPED, "composition"),
    "top": _MAPPED,
}
# What chooses heads, where composition is not given any.
_FOR_CHOOSING = ("objective", "count", "words", "coco", "max_new_tokens")


@click.command(help=HELP)
@click.argument("images", nargs=-1, required=True)
@click.option("--recursive", is_flag=True, help="Search subfolders, too.")
@model_options
@click.option(
    "--measure",
    default="vhd",
    show_default=True,
    metavar="MEASURE",
    type=click.Choice(list(_MEASURES)),
    help="One of those above.",
)
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
    help="Length of the answers that a measure generates. [default: dominance 16, cache-heads 64, "
    "others 128]",
)
@click.option(
    "--words",
    type=click.Path(path_type=Path),
    help='attribution, select, composition, overconfidence: JSON lines of "image", "grounded", '
    '"hallucinated" and maybe "caption".',
)
@click.option(
    "--coco",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="In place of --words: a COCO folder with the objects in the images, for the words of "
    "captions that the model generates; also for token-exit and position-bias. [default: the "
    "folder of the images]",
)
@click.option(
    "--factor",
    type=FACTOR,
    help="attribution, select: what a head is multiplied by. [default: 0.0]",
)
@click.option(
    "--method",
    default="gradient",
    show_default=True,
    type=click.Choice(["ablation", "gradient", "path-patching", "group", "greedy", "cd-t"]),
    help="select: how heads are chosen.",
)
@click.option(
    "--objective",
    default="contrast",
    show_default=True,
    type=click.Choice(["contrast", "grounded", "hallucinated"]),
    help="select, composition: raise grounded words, lower hallucinated ones, or both (contrast).",
)
@click.option(
    "--towards",
    type=click.Choice(["zero", "identity"]),
    help="select: what takes the place of a head's output. [default: zero]",
)
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
    factor: float | None,
    method: Method,
    objective: str,
    towards: Towards | None,
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
    """Measure, print, and write what is asked for."""
    from vlmheads.caption import PROMPT, Captioner
    from vlmheads.commands import show
    from vlmheads.commands.coco_words import coco_folder, objects_of
    from vlmheads.commands.measurement import Measurement, Options
    from vlmheads.commands.measures import MEASURES, finished
    from vlmheads.commands.tables import as_record, print_measurement
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
    if measure in _TAKEN_BY["coco"] and words is None and heads is None:
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
        batch_size=batch_size,
    )
    parts: list[Measurement] = []
    with show.progress(len(found)) as advance:
        for start in range(0, len(found), batch_size):
            batch = found[start : start + batch_size]
            parts.append(MEASURES[measure](captioner, batch, options))
            advance(len(batch))
    result = finished(captioner, Measurement.joined(parts), options)
    if as_json:
        click.echo(json_text(about | {"measure": measure} | as_record(result, top)))
    else:
        print_measurement(result, top)
    for place, writes in ((out, result.saved), (plot, result.drawn)):
        if place is not None:
            assert writes is not None  # other measures do not take the option
            save(place, writes)


def _refuse_idle(measure: str) -> None:
    """Refuse options that were given and that the measure does not take."""
    from vlmheads.errors import VlmHeadsError

    heads = click.get_current_context().params["heads"]
    for name, measures in _TAKEN_BY.items():
        if not said(name):
            continue
        if measure not in measures:
            raise VlmHeadsError(
                f"{flag(name)} with --measure {measure}", f"--measure {' or '.join(measures)}"
            )
        if name in _FOR_CHOOSING and heads is not None:
            raise VlmHeadsError(f"{flag(name)} with --heads", "one of the two")
