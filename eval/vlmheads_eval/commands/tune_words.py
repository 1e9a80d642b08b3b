"""`vlmheads tune --words`: a word scorer for a model, with a threshold of stated risk."""

from pathlib import Path
from typing import Any

import click

RULES = {name.replace(" ", "-"): name for name in
         ("learn then test", "split", "tolerance", "conformal risk")}  # fmt: skip


def tune_words_of(
    *,
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
    """Fit a word scorer to a model, choose its threshold for a risk, and verify it.

    Half of the images fit the scorer; a quarter choose the threshold; the rest verify it. What is
    guaranteed, and what it costs, is printed and written into `out`.
    """
    import vlmheads
    from vlmheads.commands.show import quiet_loading
    from vlmheads.errors import VlmHeadsError
    from vlmheads.model.anatomy import examine
    from vlmheads.output import check_folder, check_output, save
    from vlmheads_eval.calibrate.learn import load_source
    from vlmheads_eval.calibrate.measured import measure_captions
    from vlmheads_eval.calibrate.words import CANDIDATES, LENS, Target, tune_words
    from vlmheads_eval.chair.variants import get_variant
    from vlmheads_eval.data import at_most

    if delta is not None and rule != "learn-then-test":
        raise VlmHeadsError(f"--delta with --rule {rule}", "--rule learn-then-test")
    if beta is not None and rule != "tolerance":
        raise VlmHeadsError(f"--beta with --rule {rule}", "--rule tolerance")
    tolerance = (0.1 if beta is None else beta) if rule == "tolerance" else 0.0
    target = Target(alpha, RULES[rule], loss, delta or 0.1, tolerance)  # type: ignore[arg-type]
    candidates = {
        name: features for name, features in CANDIDATES.items() if lens or not {*features} & {*LENS}
    }
    check_folder(out.parent)
    check_output(out)
    source = load_source(
        data, out.parent / f"{out.stem}-data", get_variant(variant), images=images, prompt=prompt,
        num=at_most(data, num), seed=seed,
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
    save(out, tuned.scorer.save)
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
