"""How often `vlmheads tune` recommends a setting where none differs from the plain model.

Run: python benchmarks/tune_null.py --out out/tune-null

Shuffled annotations end at the fit of captions and annotations. This is for what comes after it.
Scenes are captioned plain and under a method. "The plain model" and every candidate then take,
image by image, one of the two captions by the toss of a coin: true captions of true annotations,
with as much spread as a method gives, in which nobody is better than anybody. The candidates are
halved on some images, and the last three are confirmed on others, by the functions of the search
itself. What is recommended is a false recommendation. Prints and writes OUT/null-MODEL-AIM.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.runs import RunScores, score_run
from vlmheads_eval.predict.model import versions
from vlmheads_eval.predict.run import run_prediction
from vlmheads_eval.run_folder import ground_truth_of
from vlmheads_eval.tune.captioning import PLAIN
from vlmheads_eval.tune.confirm import Confirmation, confirm
from vlmheads_eval.tune.halving import Standing, halve, schedule
from vlmheads_eval.tune.settings import OBJECTIVES
from vlmheads_eval.tune.standings import standing
from vlmheads_eval.tune.verdict import best

from vlmheads.plugin import Plugin

SELECT = 0.4  # Of the images; the rest confirms, as in a search without what is learned.
VARIANT = "pattern"


def captioned(out: Path, model: str, plugin: str, num: int, given: Mapping[str, Any]) -> list[Any]:
    """The scores of plain and mitigated captions of the same scenes."""
    runs = []
    for name, plugins in {"plain": (), "method": (plugin,)}.items():
        run_prediction(
            data=("testbed:val",),
            model=model,
            plugins=plugins,
            out=out / name,
            num=num,
            workspace=out / "data",
            **given,
        )
        truth = load_ground_truth(ground_truth_of(out / name), get_variant(VARIANT))
        runs.append(score_run(name, out / name, truth, get_variant(VARIANT), "greedy"))
    return runs


def part(run: RunScores, at: Sequence[int]) -> RunScores:
    """A run on some of its images."""
    keys = tuple(run.images[row] for row in at)
    return replace(run, images=keys, counts=run.counts[at], cut=run.cut[at])


def tossed(name: str, runs: Sequence[RunScores], draws: np.random.Generator) -> RunScores:
    """One of two runs, image by image."""
    coin = draws.random(len(runs[0].images)) < 0.5
    counts = np.where(coin[:, None], runs[0].counts, runs[1].counts)
    cut = np.where(coin[:, None, None], runs[0].cut, runs[1].cut)
    return replace(runs[0], name=name, counts=counts, cut=cut)


def search(runs: Sequence[RunScores], candidates: int, objective: str, seed: int) -> Confirmation:
    """A search of candidates that are as good as the plain model."""
    draws = np.random.default_rng(seed)
    aim = OBJECTIVES[objective]
    images = draws.permutation(len(runs[0].images))
    border = round(SELECT * len(images))
    select, rest = images[:border], np.sort(images[border:])
    names = [f"candidate {number}" for number in range(candidates)]
    world = {name: tossed(name, runs, draws) for name in (PLAIN, *names)}

    def score(alive: Sequence[str], number: int) -> dict[str, Standing]:
        at = np.sort(select[:number]).tolist()
        plain = part(world[PLAIN], at)
        return {name: standing(plain, part(world[name], at), aim) for name in alive}

    last, _ = halve(names, schedule(candidates, border), score)
    nothing: tuple[Plugin, ...] = ()
    return confirm(
        dict.fromkeys(last, nothing),
        lambda name, plugins: part(world[name], rest.tolist()),
        lambda name, draw: None,
        aim,
        variant=VARIANT,
        controls=0,
        seed=seed,
    )


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="out/tune-null", show_default=True)
@click.option("--model", default="embedded", show_default=True)
@click.option("--plugin", default="vcd:alpha=0.5", show_default=True, help="The other captions.")
@click.option("--prompt", help="What captions are asked for with.")
@click.option("--num", default=334, show_default=True, help="Images of a search.")
@click.option("--candidates", default=64, show_default=True)
@click.option("--searches", default=400, show_default=True)
@click.option("--objective", type=click.Choice([*OBJECTIVES]), default="f1", show_default=True)
@click.option("--tokens", "max_new_tokens", default=96, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
def main(
    out: Path,
    model: str,
    plugin: str,
    num: int,
    candidates: int,
    searches: int,
    objective: str,
    **given: Any,
) -> None:
    """Search among candidates of which none is better, again and again."""
    runs = captioned(out, model, plugin, num, given)
    aim = OBJECTIVES[objective]
    wrong, chosen, real = 0, [], []
    for seed in range(searches):
        found = search(runs, candidates, objective, seed)
        wrong += best(found.judgements, aim) is not None
        chosen += [one.value for one in found.judgements.values() if one.value is not None]
        real += [one.helps for one in found.judgements.values()]
    result = {
        "given": {
            "model": model,
            "plugin": plugin,
            "images": num,
            "candidates": candidates,
            **given,
        },
        "objective": objective,
        "searches": searches,
        "false recommendations": wrong,
        "finalists shown to help": int(sum(real)),
        "finalists": len(real),
        "mean effect of finalists on the images that confirm": float(np.mean(chosen)),
        "versions": versions(),
    }
    (out / f"null-{Path(model).name}-{objective}.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
