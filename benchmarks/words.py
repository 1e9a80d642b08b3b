"""How well scores of words tell invented object words from true ones, next to place alone.

Run: python benchmarks/words.py --out out/words.json
It captions scenes of the splits val, test and counterfactual, marks every object word as CHAIR
does (variant "fixed"), fits the combined score on val alone, and measures on the others how well
each score tells the two kinds apart, within ten tokens of each other, too, how often the flags are
right, and what dropping does to CHAIR. Intervals are 95 % bootstrap intervals over images.
`--save-scorer grounding.json` writes the fitted score with what it does on the other images;
beside the weights of a model it becomes that model's own.

With --model, --fit-on and --data of your own (COCO folders) it fits a scorer for another model.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from vlmheads_eval.calibrate.measured import measure_captions
from vlmheads_eval.calibrate.scorer import (
    choose_features,
    fit_scorer,
    flag_figures,
    with_evidence,
)
from vlmheads_eval.calibrate.words import CANDIDATES, PLACES, PRESENT, image_scores
from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.data import load_material
from vlmheads_eval.word_scores import auroc_within, directed, separation
from words_coverage import coverage
from words_dropping import DRAWS, READING, Said, dropped
from words_report import report

from vlmheads import Captioner
from vlmheads.grounding.catalogue import ASKED, SCORES
from vlmheads.grounding.questions import ENDING
from vlmheads.grounding.scores import Scorer
from vlmheads.model.anatomy import examine

# Scores that are measured beside those of every grounding.
FURTHER = tuple(name for name in SCORES if name not in ("divergence", "attention", "image_gain"))
TITLES = {
    "place": "place alone",
    "repeat": "repeat alone",
    "log_probability": "log p, sum",
    "log_probability_mean": "log p, mean",
    "log_probability_without": "log p without the image",
    "entropy": "entropy",
    "image_gain": "image gain",
    "divergence": "T-VHD",
    "attention": "image attention",
    "svar": "SVAR",
    "pas": "PAS",
    "internal_confidence": "Internal Confidence",
    "glsim": "GLSim",
    "inslen": "InsLen",
    "lpfv": "LPFV",
    "p_yes": "P(yes)",
}
# Fits that are measured beside those that may ship.
OTHERS = {"place and repeat alone": PLACES, "without place": PRESENT}


@dataclass(frozen=True)
class Setup:
    """What is asked of which model."""

    captioner: Captioner
    prompt: str
    workspace: Path
    batch: int
    seed: int
    limit: int
    scores: tuple[str, ...]
    ending: str

    def say(self, data: str, num: int, plugins: Sequence[str] = (), *, ask: bool = True) -> Said:
        """Caption images and measure the words of the captions on the plain model."""
        material = load_material(
            [data], "caption", workspace=self.workspace, prompt=self.prompt, num=num, seed=self.seed
        )
        truth = load_ground_truth(material.ground_truth, get_variant(READING))
        found = measure_captions(
            Captioner(self.captioner.model, self.captioner.processor, plugins),
            material.samples,
            truth,
            scores=[name for name in self.scores if ask or name not in ASKED],
            ending=self.ending,
            batch_size=self.batch,
            max_new_tokens=self.limit,
            progress=lambda done: click.echo(f"{data} {' '.join(plugins)}: {done}", err=True),
        )
        return Said(found.keys, found.captions, found.divergences, found.truth)


def separations(said: Said, scorers: dict[str, Scorer], geometry: Any) -> dict[str, Any]:
    """How well every score tells true from invented words, next to place alone."""
    table = said.table()
    values = table.at(scorers["combined"].heads(geometry))
    single = directed(values, [name for name in TITLES if name in values])
    scores = {TITLES[name]: column for name, column in single.items()}
    scores |= {name: table.scores(scorer, geometry) for name, scorer in scorers.items()}
    first = table.values["repeat"] == 0
    place = table.values["place"]
    return {
        "words": len(table.true),
        "invented": int((~table.true).sum()),
        "first mentions": int(first.sum()),
        "first mentions invented": int((first & ~table.true).sum()),
        "images": table.images,
        "scores": {
            name: {"words": int((~np.isnan(found)).sum())}
            | {column: one.to_dict() for column, one in separation(table, found, DRAWS).items()}
            for name, found in scores.items()
            if not np.isnan(found).all()
        },
        "T-VHD by k, within bins": [
            float(auroc_within(column, table.true, place)[0]) for column in table.divergences.T
        ],
    }


def flags(said: Said, scorer: Scorer, geometry: Any, thresholds: Iterable[float]) -> dict[str, Any]:
    """How often flags are right at some thresholds."""
    table = said.table()
    scores = table.scores(scorer, geometry)
    return {
        f"{threshold:.3f}": {
            name: found.to_dict()
            for name, found in flag_figures(table, scores, threshold, DRAWS).items()
        }
        for threshold in thresholds
    }


@click.command()
@click.option("--model", default="embedded", show_default=True)
@click.option("--fit-on", default="testbed:val", show_default=True, help="What the fit is made on.")
@click.option("--fit-num", default=2000, show_default=True, help="How many images of it.")
@click.option(
    "--data",
    multiple=True,
    default=("testbed:test", "testbed:counterfactual"),
    show_default=True,
    help="What is measured on: testbed:SPLIT or a COCO folder.",
)
@click.option("--num", default=500, show_default=True, help="Images of each.")
@click.option("--seed", default=0, show_default=True)
@click.option("--prompt", default="Describe the image.", show_default=True)
@click.option("--plugin", default="vhr", show_default=True, help="Captions under it, too; '' none.")
@click.option("--scores", default="all", show_default=True, help="Names, separated by commas.")
@click.option("--ending", default=ENDING, show_default=True, help="What ends P(yes)'s questions.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--max-new-tokens", default=128, show_default=True)
@click.option("--save-scorer", type=click.Path(path_type=Path), help="Write the fitted scorer.")
@click.option("--out", type=click.Path(path_type=Path), help="Write everything as JSON here.")
def main(
    model: str,
    fit_on: str,
    fit_num: int,
    data: tuple[str, ...],
    num: int,
    seed: int,
    prompt: str,
    plugin: str,
    scores: str,
    ending: str,
    batch_size: int,
    max_new_tokens: int,
    save_scorer: Path | None,
    out: Path | None,
) -> None:
    """Fit the combined score of words and measure it; prints Markdown."""
    if fit_on in data:
        raise click.UsageError(f"{fit_on} is fitted on; measure on images that are not")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            Captioner.from_pretrained(model, ()),
            prompt,
            Path(folder),
            batch_size,
            seed,
            max_new_tokens,
            (*FURTHER, *ASKED) if scores == "all" else tuple(scores.split(",")),
            ending,
        )
        result, scorer = measured(setup, model, (fit_on, fit_num), (data, num), plugin)
    if save_scorer is not None:
        scorer.save(save_scorer)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(report(result))


def measured(
    setup: Setup,
    model: str,
    fit_on: tuple[str, int],
    measure_on: tuple[Sequence[str], int],
    plugin: str,
) -> tuple[dict[str, Any], Scorer]:
    """Fit on the one, measure on the others."""
    geometry = examine(setup.captioner.model).geometry
    about = {"model": model, "data": fit_on[0], "seed": setup.seed, "prompt": setup.prompt}
    table = setup.say(*fit_on, ask=False).table()
    known = {*table.at(1)}
    may_ship = {name: of for name, of in CANDIDATES.items() if known.issuperset(of)}
    best, chosen_by = choose_features(table, geometry, may_ship, setup.seed)
    combined = fit_scorer(table, geometry, about | {"features": best}, features=may_ship[best])
    scorers = {"p / (p + p₀)": Scorer.plain(), "combined": combined}
    for name, features in {**may_ship, **OTHERS}.items():
        if name != best:
            scorers[f"fitted: {name}"] = fit_scorer(table, geometry, about, features=features)
    sets: dict[str, Said] = {}
    for at in measure_on[0]:
        for plugins in ((), (plugin,)) if plugin else ((),):
            sets[" ".join([at, *plugins])] = setup.say(at, measure_on[1], plugins)
    held_out = {name: said.table() for name, said in sets.items() if name in measure_on[0]}
    combined = with_evidence(combined, held_out, geometry, DRAWS)
    result: dict[str, Any] = {
        "settings": {
            "model": model,
            "prompt": setup.prompt,
            "seed": setup.seed,
            "fit on": list(fit_on),
            "ending": setup.ending,
        },
        "features chosen by AUROC within bins": {"chosen": best, **chosen_by},
        "scorer": combined.to_dict(),
        "separation": {},
        "flags": {},
        "dropped": {},
        "coverage": {},
    }
    plain = scorers["p / (p + p₀)"]
    for name, said in sets.items():
        result["separation"][name] = separations(said, scorers, geometry)
        result["flags"][name] = {
            "combined": flags(said, combined, geometry, (combined.threshold, 0.3, 0.4, 0.5)),
            "p / (p + p₀)": flags(said, plain, geometry, (0.4, plain.threshold)),
        }
        result["dropped"][name] = {
            "combined": dropped(said, combined, geometry),
            "p / (p + p₀)": dropped(said, plain, geometry),
            "combined, shuffled": dropped(said, combined, geometry, seed=setup.seed),
        }
        kept = image_scores(said.table(), combined, geometry)
        result["coverage"][name] = coverage(kept, setup.seed)
    return result, combined


if __name__ == "__main__":
    main()
