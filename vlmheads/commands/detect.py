"""`vlmheads detect`: measure the heads of a model on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmheads.commands.options import model_options

if TYPE_CHECKING:
    from vlmheads.headmap import HeadMap


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_options
@click.option("--prompt", help='What to ask. [default: "Describe the image."]')
@click.option("--filtered", is_flag=True, help="Set negative heads to 0, as VHR does.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1))
@click.option("--out", type=click.Path(path_type=Path), help="Write the head map, safetensors.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it, layers x heads.")
def detect(
    images: tuple[Path, ...],
    model: str,
    dtype: str,
    device: str | None,
    prompt: str | None,
    filtered: bool,
    batch_size: int,
    top: int,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Measure vision-aware head divergence (VHD) on IMAGES: files, or folders of them."""
    from rich.console import Console
    from rich.table import Table

    from vlmheads.caption import PROMPT, Captioner
    from vlmheads.commands import show
    from vlmheads.detect import divergence
    from vlmheads.errors import VlmHeadsError
    from vlmheads.headmap import HeadMap
    from vlmheads.images import find_images

    found = []
    for path in find_images(images):
        if isinstance(path, VlmHeadsError):
            raise path
        found.append(path)
    show.quiet_loading(model)
    captioner = Captioner.from_pretrained(model, dtype=dtype, device=device)
    about: dict[str, Any] = {"model": model, "prompt": prompt or PROMPT}
    maps: list[HeadMap] = []
    with show.progress(len(found)) as advance:
        for start in range(0, len(found), batch_size):
            batch = found[start : start + batch_size]
            inputs = captioner.prepare(batch, prompt or PROMPT)
            maps.append(divergence(captioner.model, inputs, filtered=filtered, provenance=about))
            advance(len(batch))
    result = HeadMap.concatenate(maps)
    error = result.standard_error()
    table = Table(title=f"VHD, mean of {result.images} images, {result.geometry}")
    for column in ("layer", "head", "VHD", "standard error"):
        table.add_column(column, justify="right")
    for layer, head, value in result.top(min(top, result.mean().numel())):
        table.add_row(str(layer), str(head), f"{value:.3f}", f"{error[layer, head]:.3f}")
    Console().print(table)
    if out is not None:
        result.save(out)
    if plot is not None:
        result.plot(plot)
