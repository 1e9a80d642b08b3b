"""`vlmheads bake`: a checkpoint with the effect of plugins written into its weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vlmheads.plugin import Plugin


@click.command()
@click.argument("model")
@click.argument("paths", metavar="[HEAD_MAP] OUT", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    help="What to write into the weights: a plugin with options, or a preset; may be repeated.",
)
@click.option(
    "--strength",
    type=click.FloatRange(-1e6, 1e6),
    help="HEAD_MAP: share of the way from 1 to the gain. [default: 1]",
)
@click.option(
    "--layout",
    type=click.Choice(("keep", "published", "hf")),
    default="keep",
    show_default=True,
    help="Names of the tensors: as they are, as the family was published (vLLM), or as "
    "transformers 5.2x saves a new model.",
)
@click.option("--adapter", is_flag=True, help="Write a PEFT IA3 adapter, not a whole checkpoint.")
@click.option(
    "--check",
    "checked",
    is_flag=True,
    help="Load both afterwards, and compare the checkpoint with the attached plugins.",
)
def bake(
    model: str,
    paths: tuple[Path, ...],
    plugins: tuple[str, ...],
    strength: float | None,
    layout: str,
    adapter: bool,
    checked: bool,
) -> None:
    """Write the effect of plugins into a model's weights.

    MODEL is a packaged model, a folder or a hub id. HEAD_MAP is a file of gains, short for
    --plugin gains:head_map=HEAD_MAP. OUT is the model with that effect, loaded with
    transformers alone, or by a server; names, data types and other files are those of MODEL.

    Possible for constant factors on heads: gains, vhr, spin and adhh with fixed heads, allpath; and
    for nullu, which takes directions out of MLPs. offsets need output projections with a bias. The
    others depend on each prompt: `vlmheads serve` keeps them attached.
    """
    from vlmheads.errors import VlmHeadsError
    from vlmheads.registry import get_plugin, resolve

    if len(paths) not in (1, 2):
        raise click.UsageError("name one folder to write, after at most one head map")
    out = paths[-1]
    if strength is not None and len(paths) == 1:
        raise VlmHeadsError("--strength without a HEAD_MAP", "an option of the plugin itself")
    acting: list[str | Plugin] = list(plugins)
    if len(paths) == 2:
        gains = {"head_map": str(paths[0])} | ({} if strength is None else {"strength": strength})
        acting.insert(0, get_plugin("gains").from_dict(gains))
    if not acting:
        raise VlmHeadsError("nothing to bake", "a HEAD_MAP, or --plugin")
    found = resolve(acting)
    if adapter:
        if checked or layout != "keep":
            raise VlmHeadsError("--adapter with --check or --layout", "a whole checkpoint for them")
        _adapter(model, out, found)
        return
    from vlmheads.gains.bake import bake as write

    baked = write(model, out, found, layout=layout)
    for name, reason in baked.left_out.items():
        click.echo(f"left out: {name}, {reason}", err=True)
    if baked.note:
        click.echo(f"note: {baked.note}", err=True)
    click.echo(f"checkpoint written to {out}; {len(baked.changed)} tensors changed")
    if checked and not _check(model, out, found) and not baked.note:
        sys.exit(2)


def _adapter(model: str, out: Path, plugins: tuple[Plugin, ...]) -> None:
    """Write an adapter for a model, of which only the shape is needed."""
    from vlmheads.gains.adapter import save_adapter
    from vlmheads.gains.bake import empty_model
    from vlmheads.gains.folds import combined

    anatomy = empty_model(model)
    fold = combined(plugins, anatomy.geometry)
    save_adapter(fold, out, anatomy.model)
    click.echo(f"adapter written to {out}; load it with peft.PeftModel.from_pretrained")


def _check(model: str, out: Path, plugins: tuple[Plugin, ...]) -> bool:
    """Compare a checkpoint with the attached plugins, and say what was found."""
    from vlmheads.commands.show import quiet_loading
    from vlmheads.gains.check import check

    quiet_loading(model)
    found = check(model, out, plugins)
    click.echo(
        f"check: {found.same} of {found.images} captions of noise are the same token for token; "
        f"logits differ by at most {found.difference:.2g}, where the plugin moves them by "
        f"{found.effect:.2g} and rounding explains {found.allowed:.2g}"
    )
    return found.passed
