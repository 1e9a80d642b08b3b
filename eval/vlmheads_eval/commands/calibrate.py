"""`vlmheads calibrate`: learn gains of a model's heads from images with known objects."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmheads.commands.edge import one_line_errors
from vlmheads.output import check_folder, check_output, save, save_text

if TYPE_CHECKING:
    from vlmheads.gains.learn import Checkpoint


TESTS = ("testbed:test", "testbed:counterfactual")


@click.command()
@click.option(
    "--data",
    multiple=True,
    default=("testbed:train", "testbed:counterfactual"),
    show_default=True,
    help="What to learn from: COCO folders, or splits of the test bench.",
)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option(
    "--num",
    type=click.IntRange(2),
    default=320,
    show_default=True,
    help="Images from each --data, drawn with the seed.",
)
@click.option("--model", default="embedded", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--device", help="Such as cpu or cuda:0.")
@click.option("--prompt", help='The prompt. [default: "Describe the image."]')
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the head map of gains (safetensors).",
)
@click.option("--rounds", type=click.IntRange(1), help="Maximum number of rounds. [default: 10]")
@click.option("--round-images", type=click.IntRange(1), help="Captions per round. [default: 192]")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="First step size. [default: 0.03]"
)
@click.option(
    "--penalty",
    type=click.FloatRange(0),
    help="How strongly gains are pulled towards 1. [default: 0.02]",
)
@click.option("--low", type=click.FloatRange(0, 1), help="The smallest gain. [default: 0]")
@click.option("--high", type=click.FloatRange(1), help="The largest gain. [default: 4]")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9, min_open=True),
    help="Share of the images used to choose the best round. [default: 0.25]",
)
@click.option("--batch-size", type=click.IntRange(1), help="Captions per step. [default: 16]")
@click.option(
    "--fewest",
    type=click.IntRange(1),
    help="Least number of hallucinated mentions to learn from. [default: 20]",
)
@click.option("--max-new-tokens", type=click.IntRange(1), help="[default: 96]")
@click.option("--variant", help='The variant of CHAIR. [default: "pattern"]')
@click.option(
    "--seed",
    default=1,
    show_default=True,
    type=click.IntRange(0, 2**32 - 1),
    help="For images, order and scenes.",
)
@click.option(
    "--test",
    "tests",
    multiple=True,
    help="COCO folders or splits to test on afterwards, with seed 0, or none. By default, if all "
    "--data are from the test bench, its test and counterfactual scenes.",
)
@click.option("--test-num", type=click.IntRange(1), default=500, show_default=True)
@click.option(
    "--draws",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Draws of shuffled gains in the test.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the test here.")
@one_line_errors
def calibrate(
    data: tuple[str, ...],
    images: Path | None,
    num: int,
    model: str,
    dtype: str,
    device: str | None,
    prompt: str | None,
    out: Path,
    seed: int,
    tests: tuple[str, ...],
    test_num: int,
    draws: int,
    json_file: Path | None,
    round_images: int | None,
    **given: Any,
) -> None:
    """Learn gains of a model's heads.

    The model captions the images of --data, whose objects are known; the gains learned from
    these captions make it name objects that are present and not named yet. Use them with
    `--plugin gains:head_map=OUT`, or fold them into the weights with `vlmheads bake`.
    """
    import vlmheads
    from vlmheads.commands.show import quiet_loading
    from vlmheads_eval.calibrate.learn import Settings, learn, load_source, refuse_overlap
    from vlmheads_eval.chair.variants import get_variant
    from vlmheads_eval.data import TESTBED, at_most

    check_folder(out.parent)
    check_output(out)
    check_output(json_file, inputs=[out])
    given["images"] = round_images
    settings = Settings(seed=seed, **{k: v for k, v in given.items() if v is not None})
    variant = get_variant(settings.variant)
    workspace = out.parent / f"{out.stem}-data"
    about: dict[str, Any] = {"prompt": prompt}
    sources = [
        load_source(
            one,
            workspace,
            variant,
            images=images,
            seed=seed,
            prompt=prompt,
            num=at_most(one, num),
        )
        for one in data
    ]
    if not tests and all(one.startswith(TESTBED) for one in data):
        tests = TESTS
    tests = () if tests == ("none",) else tests
    tested = {
        one: load_source(one, workspace, variant, prompt=prompt, num=at_most(one, test_num))
        for one in tests
    }
    refuse_overlap(sources, list(tested.values()))
    quiet_loading(model)
    captioner = vlmheads.Captioner.from_pretrained(model, (), dtype=dtype, device=device)
    wall, cpu = time.monotonic(), time.process_time()
    found = learn(
        captioner,
        sources,
        settings,
        provenance={"model": model, "data": list(data)} | about,
        say=lambda line: click.echo(line, err=True),
        progress=_show_checkpoint,
    )
    save(out, found.gains.save)
    values = found.gains.mean()
    click.echo(
        f"{out}: gains from {values.min():.2f} to {values.max():.2f}, from round {found.best}; "
        f"{time.monotonic() - wall:.0f} s, {time.process_time() - cpu:.0f} s of processor time"
    )
    if not found.best:
        click.echo("no round was better than the plain model: all gains are 1")
    results = {
        name: _test(captioner, out, found.gains, source, name, model, settings, draws)
        for name, source in tested.items()
    }
    if json_file is not None:
        save_text(json_file, json.dumps(results, indent=1) + "\n")


def _show_checkpoint(checkpoint: "Checkpoint") -> bool:
    loss = "" if checkpoint.loss is None else f"cost {checkpoint.loss:.4f}, "
    f1 = 1 - checkpoint.held_out
    click.echo(f"round {checkpoint.round}: {loss}held-out object F1 {f1:.4f}", err=True)
    return True


def _test(
    captioner: Any,
    out: Path,
    gains: Any,
    source: Any,
    name: str,
    model: str,
    settings: Any,
    draws: int,
) -> dict[str, Any]:
    """Caption a test set under the gains and the controls, compare, and print it."""
    import hashlib

    from vlmheads_eval.calibrate.report import compare_all, run_all, tables
    from vlmheads_eval.chair.variants import get_variant
    from vlmheads_eval.report.tables import markdown

    digest = hashlib.sha256(gains.values.numpy().tobytes()).hexdigest()
    folder = out.parent / f"{out.stem}-runs" / f"{source.folder.name}-{digest[:8]}"
    runs = run_all(
        captioner,
        gains,
        source.material,
        folder,
        {"model": model, "gains": digest},
        draws=draws,
        batch_size=50,
        max_new_tokens=settings.max_new_tokens,
        say=lambda line: click.echo(line, err=True),
    )
    result = compare_all(
        runs, source.material.ground_truth, get_variant(settings.variant), draws=10_000, seed=0
    )
    levels, changes = tables(result)
    click.echo(f"\n{name}, {result['images']} images, variant {result['variant']}\n")
    click.echo(markdown(levels))
    click.echo(markdown(changes))
    click.echo("* the plain captions truncated to the same recall; 95 % intervals, paired by image")
    return result
