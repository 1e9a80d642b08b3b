"""`vlmheads bake`: a checkpoint with a map of gains folded into its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.argument("head_map", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--strength",
    default=1.0,
    show_default=True,
    type=click.FloatRange(-1e6, 1e6),
    help="Share of the way from 1 to the gain.",
)
@click.option("--adapter", is_flag=True, help="Write a PEFT IA3 adapter, not a whole checkpoint.")
def bake(model: str, head_map: Path, out: Path, strength: float, adapter: bool) -> None:
    """Fold the gains of HEAD_MAP into MODEL and save it as OUT, a normal checkpoint.

    MODEL is a packaged model, a folder or a hub id; HEAD_MAP a file whose measure is "gain". OUT
    is loaded with transformers alone, or by a server, and keeps the data type of MODEL.
    """
    from vlmheads.commands import show
    from vlmheads.errors import VlmHeadsError
    from vlmheads.gains.export import fold_gains, save_adapter
    from vlmheads.headmap import HeadMap
    from vlmheads.model.loading import load_model, saved_dtype
    from vlmheads.output import check_folder

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VlmHeadsError(f"{out} exists", "a new or empty folder")
    gains = HeadMap.load(head_map)
    check_folder(out)
    show.quiet_loading(model)
    loaded, processor = load_model(model, dtype="float32", device="cpu")
    if adapter:
        with _written(out):
            save_adapter(gains, out, loaded, strength=strength)
        click.echo(f"adapter written to {out}; load it with peft.PeftModel.from_pretrained")
        return
    fold_gains(gains, loaded, strength=strength)
    with _written(out):
        loaded.to(saved_dtype(model)).save_pretrained(out)
        processor.save_pretrained(out)
    click.echo(f"checkpoint written to {out}")


@contextmanager
def _written(out: Path) -> Iterator[None]:
    """Say in one line where a checkpoint cannot be written."""
    from safetensors import SafetensorError

    from vlmheads.errors import VlmHeadsError

    try:
        yield
    except SafetensorError as error:
        raise VlmHeadsError(f"{out} cannot be written ({error})") from error
