"""What a model of the test bench does, and what VHR, random heads and plain cutting do to it.

Run: python benchmarks/testbed.py --out out/testbed.json
     python benchmarks/testbed.py --model smol --plain --prompt "Describe the image in detail."
It captions the same scenes plain, under VHR and under the same number of heads chosen at random,
and scores all with CHAIR. Intervals are 95 % bootstrap intervals over images, paired.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from vlmheads_eval.chair.ground_truth import GroundTruth, load_ground_truth
from vlmheads_eval.chair.measures import count, measure, overall
from vlmheads_eval.chair.score import score_captions, score_chair
from vlmheads_eval.chair.variants import Variant, get_variant
from vlmheads_eval.records import Caption
from vlmheads_testbed.coco import image_id, write_dataset
from vlmheads_testbed.measure import answers, head_divergence, questions, specialisation
from vlmheads_testbed.scenes import Scene, scene

from vlmheads.model.loading import EMBEDDED, load_model

SHOWN = ("recall", "CHAIRi", "CHAIRs", "object_f1", "words", "repetition")
RESAMPLES = 2000


@dataclass(frozen=True)
class Bench:
    """The model, the scenes of one split with their ground truth, and the prompt."""

    model: Any
    processor: Any
    split: str
    seed: int
    scenes: list[Scene]
    truth: dict[str, GroundTruth]
    prompt: str

    def captions(self) -> list[Caption]:
        """Caption every scene with whatever is attached to the model now."""
        texts = answers(self.model, self.processor, self.scenes, [self.prompt] * len(self.scenes))
        ids = (image_id(self.split, self.seed, index) for index in range(len(texts)))
        return [Caption(number, text) for number, text in zip(ids, texts, strict=True)]

    def counts(self, captions: list[Caption], name: str = "pattern") -> np.ndarray[Any, Any]:
        """CHAIR's counts of each caption: [images, columns of measures.Counts]."""
        scored = score_captions(captions, self.truth[name], get_variant(name))
        return np.array([count(caption, score) for caption, _, score in scored])


def make_bench(model: Any, processor: Any, split: str, seed: int, num: int, prompt: str) -> Bench:
    scenes = [scene(split, seed, index) for index in range(num)]
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), split, num, seed)
        truth = {name: load_ground_truth([Path(folder)], get_variant(name)) for name in VARIANTS}
    return Bench(model, processor, split, seed, scenes, truth, prompt)


VARIANTS = ("pattern", "fixed")


def plain_figures(bench: Bench, captions: list[Caption]) -> dict[str, Any]:
    """CHAIR of the plain captions in both variants, the frontier, and the yes/no accuracy."""
    asked = questions(bench.scenes, bench.split, bench.seed)
    replies = answers(
        bench.model, bench.processor, [one for one, _, _ in asked], [text for _, text, _ in asked]
    )
    yes = np.array([reply.startswith("Yes") for reply in replies])
    truth = np.array([answer for _, _, answer in asked])
    reading: dict[str, Variant] = {name: get_variant(name) for name in VARIANTS}
    return {
        "chair": {
            name: score_chair(captions, bench.truth[name], reading[name]) for name in VARIANTS
        },
        "ended": float(np.mean([caption.text.rstrip().endswith(".") for caption in captions])),
        "yes_no": {
            "questions": len(asked),
            "accuracy": float((yes == truth).mean()),
            "accuracy_likely_absent": float((~yes[3::4]).mean()),
            "yes_share": float(yes.mean()),
        },
    }


@dataclass(frozen=True)
class Setting:
    """A factor for VHR, on the plugin's own choice of layers or on the last half of them."""

    alpha: float
    last_half: bool = False

    @property
    def label(self) -> str:
        return f"alpha {self.alpha:g}{', last half' if self.last_half else ''}"


def random_map(geometry: Any, seed: int) -> Any:
    """A head map of random values: above its median lie half of the heads of each layer."""
    from vlmheads.headmap import HeadMap

    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(1, geometry.layers, geometry.heads, generator=generator)
    return HeadMap(values, geometry, "random", {"seed": seed})


def reinforced(bench: Bench, setting: Setting, head_map: Any = None) -> np.ndarray[Any, Any]:
    """Counts of the captions under VHR, with measured heads or those of a map."""
    from vlmheads_plugins.vhr import VHR

    from vlmheads.runtime.attachment import attach

    half = bench.model.config.text_config.num_hidden_layers // 2
    layers = tuple(range(half, 2 * half)) if setting.last_half else None
    with attach(bench.model, VHR(alpha=setting.alpha, layers=layers, head_map=head_map)):
        return bench.counts(bench.captions())


def interval(
    ours: np.ndarray[Any, Any], others: list[np.ndarray[Any, Any]], name: str, seed: int = 0
) -> dict[str, float]:
    """Difference of a measure, ours less the mean of the others, and its 95 % interval.

    Images are resampled, the same for all.
    """
    random = np.random.default_rng(seed)
    images = len(ours)
    weights = random.multinomial(images, np.full(images, 1 / images), RESAMPLES)
    weights = np.vstack([np.ones((1, images), dtype=int), weights])
    base = np.mean([measure(weights @ other, name) for other in others], axis=0)
    difference = measure(weights @ ours, name) - base
    low, high = np.percentile(difference[1:], [2.5, 97.5])
    return {"difference": float(difference[0]), "low": float(low), "high": float(high)}


def compare(bench: Bench, settings: Iterable[Setting], draws: int) -> list[dict[str, Any]]:
    """Plain, VHR and random heads in each setting, with paired intervals."""
    from vlmheads.model.anatomy import examine

    geometry = examine(bench.model).geometry
    maps = [random_map(geometry, draw) for draw in range(draws)]
    plain = bench.counts(bench.captions())
    rows: list[dict[str, Any]] = [{"name": "plain", **shown(plain)}]
    for setting in settings:
        vhr = reinforced(bench, setting)
        others = [reinforced(bench, setting, head_map) for head_map in maps]
        rows.append(
            {
                "name": f"VHR, {setting.label}",
                **shown(vhr),
                "against_plain": {n: interval(vhr, [plain], n) for n in ("CHAIRi", "recall")},
                "against_random": {n: interval(vhr, others, n) for n in ("CHAIRi", "recall")},
            }
        )
        means = {n: float(np.mean([shown(other)[n] for other in others])) for n in SHOWN}
        rows.append(
            {
                "name": f"random heads, {setting.label}, mean of {draws}",
                **means,
                "draws": [shown(other) for other in others],
                "against_plain": {
                    n: negated(interval(plain, others, n)) for n in ("CHAIRi", "recall")
                },
            }
        )
    return rows


def shown(counts: np.ndarray[Any, Any]) -> dict[str, float]:
    figures = overall(counts.sum(0))
    return {name: float(figures[name] or 0.0) for name in SHOWN}


def negated(found: dict[str, float]) -> dict[str, float]:
    return {"difference": -found["difference"], "low": -found["high"], "high": -found["low"]}


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def points(found: dict[str, float]) -> str:
    return " ".join(
        (f"{100 * found['difference']:+.1f}", f"({100 * found['low']:+.1f}", "to",
         f"{100 * found['high']:+.1f})")
    )  # fmt: skip


def cells(figures: dict[str, Any]) -> list[str]:
    return [
        f"{figures[name]:.1f}" if name == "words" else percent(figures.get(name) or 0.0)
        for name in SHOWN
    ]


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    parts = ["### The plain model", ""]
    parts.append(
        table(
            ["split", "variant", *SHOWN],
            (
                [split, name, *cells(figures["chair"][name]["overall"])]
                for split, figures in result["plain"].items()
                for name in VARIANTS
            ),
        )
    )
    parts.append(
        table(
            [
                "split",
                "questions",
                "accuracy",
                "right on likely absent",
                "says yes",
                "captions that end",
            ],
            (
                [
                    split,
                    str(figures["yes_no"]["questions"]),
                    percent(figures["yes_no"]["accuracy"]),
                    percent(figures["yes_no"]["accuracy_likely_absent"]),
                    percent(figures["yes_no"]["yes_share"]),
                    percent(figures["ended"]),
                ]
                for split, figures in result["plain"].items()
            ),
        )
    )
    parts += ["### Specialisation: largest over median VHD of a layer", ""]
    found = result["specialisation"]
    parts.append(table([str(n) for n in range(len(found))], [[f"{value:.2f}" for value in found]]))
    if not result["comparison"]:
        return "\n".join(parts)
    parts += [
        f"### VHR, plain and random heads ({result['split']}, variant pattern, points)",
        "",
    ]
    parts.append(
        table(
            ["", *SHOWN, "CHAIRi less plain", "recall less plain", "CHAIRi less random"],
            (
                [
                    row["name"],
                    *cells(row),
                    *(
                        points(row["against_plain"][n]) if "against_plain" in row else ""
                        for n in ("CHAIRi", "recall")
                    ),
                    points(row["against_random"]["CHAIRi"]) if "against_random" in row else "",
                ]
                for row in result["comparison"]
            ),
        )
    )
    parts += [f"### Plain captions cut after k sentences ({result['split']}, variant pattern)", ""]
    cuts = result["plain"][result["split"]]["chair"]["pattern"]["frontier"]
    parts.append(table(["k", *SHOWN], ([str(cut["sentences"]), *cells(cut)] for cut in cuts)))
    return "\n".join(parts)


@click.command()
@click.option("--model", "name", default=EMBEDDED, show_default=True, help="A name or folder.")
@click.option("--plain", "only_plain", is_flag=True, help="Measure the plain model alone.")
@click.option("--threads", default=1, show_default=True, help="Of the processor.")
@click.option("--num", default=500, show_default=True, help="Scenes of each split.")
@click.option("--seed", default=0, show_default=True)
@click.option("--prompt", default="Describe the image.", show_default=True)
@click.option("--alpha", "alphas", multiple=True, type=float, default=(1.5, 2.0, 3.0))
@click.option("--last-half", multiple=True, type=float, default=(2.0,))
@click.option(
    "--compare-on", "chosen", type=click.Choice(["test", "counterfactual"]), default="test"
)
@click.option("--draws", default=5, show_default=True, help="Draws of random heads.")
@click.option("--out", type=click.Path(path_type=Path), help="Write everything as JSON here.")
def main(
    name: str,
    only_plain: bool,
    threads: int,
    num: int,
    seed: int,
    prompt: str,
    alphas: tuple[float, ...],
    last_half: tuple[float, ...],
    chosen: str,
    draws: int,
    out: Path | None,
) -> None:
    """Measure a model of the test bench; prints Markdown."""
    torch.set_num_threads(threads)
    started = time.monotonic()
    model, processor = load_model(name)
    result: dict[str, Any] = {"model": name, "num": num, "seed": seed, "prompt": prompt}
    result["split"] = chosen
    benches = {
        split: make_bench(model, processor, split, seed, num, prompt)
        for split in ("test", "counterfactual")
    }
    result["plain"] = {
        split: plain_figures(bench, bench.captions()) for split, bench in benches.items()
    }
    divergence = head_divergence(model, processor, "test", min(num, 100), seed, prompt)
    result["divergence"] = divergence.tolist()
    result["specialisation"] = specialisation(divergence)
    settings = [Setting(alpha) for alpha in alphas]
    settings += [Setting(alpha, last_half=True) for alpha in last_half]
    result["comparison"] = [] if only_plain else compare(benches[chosen], settings, draws)
    result["seconds"] = time.monotonic() - started
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(report(result))


if __name__ == "__main__":
    main()
