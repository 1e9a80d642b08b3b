"""`vlmheads learn`: what a method learns from a model, in one file."""

import time
from pathlib import Path
from typing import Any

import click

from vlmheads.commands.endpoint_options import flag, said
from vlmheads.errors import VlmHeadsError
from vlmheads.output import check_folder, check_output, save
from vlmheads_eval.chair.mentions import VARIANTS
from vlmheads_eval.commands import one_line_errors
from vlmheads_eval.commands.given import command_line
from vlmheads_eval.learn.methods import METHODS

_METHODS = "\n".join(f"  {name}: {method.about}" for name, method in METHODS.items())


_EXAMPLE = """Example:
  vlmheads learn adaiat --model M --data COCO --out tables.safetensors
  vlmheads caption photo.jpg --model M --plugin adaiat:tables=tables.safetensors"""


@click.command(epilog=f"\b\nMethods:\n{_METHODS}\n\n\b\n{_EXAMPLE}")
@click.argument("method", type=click.Choice(list(METHODS)))
@click.option("--model", required=True, help="A packaged model, a folder or a hub id.")
@click.option(
    "--data",
    required=True,
    help="A COCO folder with instances.json and images, or a split such as testbed:train.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write what was learned (safetensors).",
)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option(
    "--captions",
    type=click.Path(exists=True, path_type=Path),
    help="Captions of this model: a run folder of `vlmheads eval predict`, or a file of records "
    "with image_id and caption. By default they are made in OUT-data, and resumed there.",
)
@click.option(
    "--num",
    type=click.IntRange(1),
    help="Number of images, drawn with the seed. [default: "
    + ", ".join(f"{method.images} for {name}" for name, method in METHODS.items())
    + "]",
)
@click.option(
    "--form",
    type=click.Choice(sorted({form for method in METHODS.values() for form in method.forms})),
    help="Which form to learn, for a method that has several. [default: "
    + ", ".join(f"{next(iter(m.forms))} for {name}" for name, m in METHODS.items() if m.forms)
    + "]",
)
@click.option("--prompt", help='The prompt of the captions. [default: "Describe the image."]')
@click.option("--max-new-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--fewest",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Least number of real, and of hallucinated, object words to learn from, or of pairs of "
    "captions.",
)
@click.option("--variant", type=click.Choice(VARIANTS), default="pattern", show_default=True)
@click.option("--seed", default=1, show_default=True, help="For the images, and for scenes.")
@click.option("--dtype", default="auto", show_default=True)
@click.option("--device", help="Such as cpu or cuda:0.")
@one_line_errors
def learn(method: str, model: str, out: Path, **options: Any) -> None:
    """Learn from a model what METHOD needs.

    The model captions images whose objects are known; CHAIR says which object words are real
    and which are hallucinated, and one pass over each caption records what the method compares;
    or pairs of a truthful and a hallucinated caption are made of them. The file names the
    model, the data and the number of words or pairs. It can be stopped; call it again to
    resume.
    """
    from vlmheads.commands.show import quiet_loading
    from vlmheads_eval.learn.run import Settings
    from vlmheads_eval.learn.run import learn as run

    _refuse_idle(method, options["captions"])
    check_folder(out.parent)
    check_output(out)
    quiet_loading(model)
    wall = time.monotonic()
    settings = Settings(
        model, workspace=out.parent / f"{out.stem}-data", command=command_line(), **options
    )
    found = run(method, settings, say=lambda line: click.echo(line, err=True))
    save(out, found.save)
    held = ", ".join(f"{name} {list(value.shape)}" for name, value in found.values.items())
    click.echo(
        f"{out}: {held} from {found.provenance['images']} images; digest {found.digest[:12]}; "
        f"{time.monotonic() - wall:.0f} s"
    )


def _refuse_idle(method: str, captions: Path | None) -> None:
    """Refuse options that were given and have no effect."""
    idle: tuple[str, ...] = ("max_new_tokens",) if captions is not None else ()
    needed = "captions that are made here, without --captions"
    if METHODS[method].pairs is not None and captions is not None:
        idle = ("max_new_tokens", "batch_size")
    if METHODS[method].pictures is not None:
        idle = ("captions", "max_new_tokens", "batch_size", "fewest", "variant")
        needed = "a method that learns from captions"
    if said("form") and not METHODS[method].forms:
        forms = ", ".join(name for name, one in METHODS.items() if one.forms)
        raise VlmHeadsError(f"--form has no effect on {method}", f"it with {forms}")
    given = [flag(name) for name in idle if said(name)]
    if given:
        verb, it = ("has", "it") if len(given) == 1 else ("have", "them")
        raise VlmHeadsError(
            f"{', '.join(given)} {verb} no effect on {method}", f"{it} with {needed}"
        )
