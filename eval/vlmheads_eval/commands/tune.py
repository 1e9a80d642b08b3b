"""`vlmheads tune --words`: a word scorer for a model, with a threshold of stated risk."""

from pathlib import Path
from typing import Any

import click

from vlmheads_eval.commands import one_line_errors

RULES = {name.replace(" ", "-"): name for name in
         ("learn then test", "split", "tolerance", "conformal risk")}  # fmt: skip


@click.command()
@click.option("--words", is_flag=True, help="Tune the scorer of `caption --flag` and `--drop`.")
@click.option("--model", default="embedded", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--device", help="Such as cpu or cuda:0.")
@click.option(
    "--data",
    default="testbed:val",
    show_default=True,
    help="Images with known objects: a COCO folder, or a split of the test bench.",
)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option(
    "--num",
    type=click.IntRange(4),
    default=1000,
    show_default=True,
    help="Images: half to fit on, a quarter for the threshold, a quarter to verify it.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="The risk.",
)
@click.option(
    "--rule",
    type=click.Choice(list(RULES)),
    default="learn-then-test",
    show_default=True,
    help="learn-then-test holds with confidence 1 - delta, the others on average.",
)
@click.option(
    "--loss",
    type=click.Choice(["any", "share"]),
    default="any",
    show_default=True,
    help="Of a caption: whether it keeps a false object, or their share among those kept.",
)
@click.option(
    "--delta",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="learn-then-test: how often a calibration may be above the risk. [default: 0.1]",
)
@click.option(
    "--beta",
    type=click.FloatRange(0, 1, max_open=True),
    help="tolerance: the share of false objects that a caption may keep. [default: 0.1]",
)
@click.option("--prompt", help='The prompt. [default: "Describe the image."]')
@click.option("--plugin", "plugins", multiple=True, help="Plugins under which to caption.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--lens/--no-lens", default=True, show_default=True, help="Try the lens scores, too.")
@click.option("--variant", default="fixed", show_default=True, help="The variant of CHAIR.")
@click.option("--seed", default=1, show_default=True, help="For images and their parts.")
@one_line_errors
def tune(
    words: bool,
    model: str,
    dtype: str,
    device: str | None,
    data: str,
    images: Path | None,
    num: int,
    out: Path,
    alpha: float,
    rule: str,
    loss: Any,
    delta: float | None,
    beta: float | None,
    prompt: str | None,
    plugins: tuple[str, ...],
    batch_size: int,
    max_new_tokens: int,
    lens: bool,
    variant: str,
    seed: int,
) -> None:
    """Fit a word scorer to a model, and choose its threshold for a risk.

    The model captions the images of --data. Half of them fit the scorer; a quarter choose the
    threshold, so that at most ALPHA of captions keep an object that is not there; the rest verify
    it. What is guaranteed, and what it costs, is printed and written into --out, which
    `vlmheads caption --flag --scorer OUT` takes.
    """
    import vlmheads
    from vlmheads.commands.show import quiet_loading
    from vlmheads.errors import VlmHeadsError
    from vlmheads.model.anatomy import examine
    from vlmheads_eval.calibrate.learn import load_source
    from vlmheads_eval.calibrate.measured import measure_captions
    from vlmheads_eval.calibrate.words import CANDIDATES, LENS, Target, tune_words
    from vlmheads_eval.chair.variants import get_variant
    from vlmheads_eval.commands.calibrate import _at_most

    if not words:
        raise VlmHeadsError("tune without what to tune", "--words")
    if delta is not None and rule != "learn-then-test":
        raise VlmHeadsError(f"--delta with --rule {rule}", "--rule learn-then-test")
    if beta is not None and rule != "tolerance":
        raise VlmHeadsError(f"--beta with --rule {rule}", "--rule tolerance")
    tolerance = (0.1 if beta is None else beta) if rule == "tolerance" else 0.0
    target = Target(alpha, RULES[rule], loss, delta or 0.1, tolerance)  # type: ignore[arg-type]
    candidates = {
        name: features for name, features in CANDIDATES.items() if lens or not {*features} & {*LENS}
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    source = load_source(
        data, out.parent / f"{out.stem}-data", get_variant(variant), images=images, prompt=prompt,
        num=_at_most(data, num), seed=seed,
    )  # fmt: skip
    quiet_loading(model)
    captioner = vlmheads.Captioner.from_pretrained(model, plugins, dtype=dtype, device=device)
    geometry = examine(captioner.model).geometry
    samples = source.material.samples
    target.check(len(samples))
    found = measure_captions(
        captioner,
        samples,
        source.truth,
        scores=[name for name in dict.fromkeys(sum(candidates.values(), ())) if name in
                _measured()],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        progress=lambda done: click.echo(f"{done} of {len(samples)} captions", err=True),
    )  # fmt: skip
    about = {
        "model": model,
        "data": data,
        "seed": seed,
        "prompt": samples[0].prompt,
        "plugins": list(plugins),
        "max_new_tokens": max_new_tokens,
    }
    tuned = tune_words(found.table(), geometry, about, target, candidates=candidates, seed=seed)
    tuned.scorer.save(out)
    evidence = tuned.scorer.provenance["held_out"]["images held out"]
    click.echo(f"{out}: a scorer of {', '.join(tuned.scorer.weights)}")
    click.echo(
        f"AUROC on {evidence['images']} held-out images, {evidence['words']} object words: "
        f"{_shown(evidence['all'])}, place alone {_shown(evidence['place_alone'])}; within bins of "
        f"ten tokens {_shown(evidence['within_bins'])}, place alone "
        f"{_shown(evidence['place_within_bins'])}"
    )
    if tuned.scorer.caveat:
        click.echo(f"note: {tuned.scorer.caveat}")
    click.echo(tuned.statement)
    click.echo(tuned.verdict)


def _measured() -> frozenset[str]:
    """Return the scores that are not measured anyway."""
    from vlmheads.grounding.catalogue import SCORES
    from vlmheads.grounding.scores import MEASURED

    return frozenset(SCORES) - {*MEASURED, "image_gain"}


def _shown(figure: dict[str, float | None]) -> str:
    """Return a figure with its interval."""
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
