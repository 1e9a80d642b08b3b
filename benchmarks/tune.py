"""Whether `vlmheads tune` can be believed: does what it confirms hold, and is nonsense refused.

Run: python benchmarks/tune.py held --model embedded --out out/tune       # can be stopped, resumed
     python benchmarks/tune.py held --model smol --out out/tune --budget 90m \\
         --prompt "Describe the image in detail."
     python benchmarks/tune.py shuffled --out out/tune --seeds 20
     python benchmarks/tune.py random --out out/tune

held: searches on val scenes, then captions 500 test scenes of another seed plain and under what was
chosen, and tells whether the effect there lies in the confirmed interval. shuffled: every image
gets the annotations of another, so that whatever is recommended is a false recommendation. random:
a model with random weights, on true annotations. Each writes OUT/PART-MODEL.json.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import click
from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.paired import at_recall
from vlmheads_eval.compare.runs import score_run
from vlmheads_eval.predict.model import versions
from vlmheads_eval.predict.run import run_prediction
from vlmheads_eval.run_folder import ground_truth_of
from vlmheads_eval.tune import Settings, tune
from vlmheads_eval.tune.outcome import Outcome

SEARCHED = 600
TESTED, TEST_SEED = 500, 7


def search(data: str, out: Path, model: str, given: dict[str, Any]) -> Outcome:
    """One search, with what it says on standard error."""
    methods = tuple(given.pop("methods").split(","))
    settings = Settings(model, data, out, methods=methods, **given)
    return tune(settings, lambda line: click.echo(f"  {line}", err=True))


def tested(outcome: Outcome, out: Path, model: str, given: dict[str, Any]) -> dict[str, Any]:
    """Measure what was chosen on test scenes of another seed, at equal recall."""
    plugins = {"plain": (), "chosen": (str(outcome.preset),)}
    for name, chosen in plugins.items():
        run_prediction(
            data=("testbed:test",),
            model=model,
            plugins=chosen,
            out=out / name,
            num=TESTED,
            seed=TEST_SEED,
            prompt=given.get("prompt"),
            max_new_tokens=given["max_new_tokens"],
            batch_size=given["batch_size"],
            workspace=out / "data",
        )
    variant = get_variant("pattern")
    truth = load_ground_truth(ground_truth_of(out / "plain"), variant)
    plain, other = (score_run(name, out / name, truth, variant) for name in plugins)
    return {name: one.to_dict() for name, one in at_recall(plain, [other])["chosen"].items()}


def shuffled(data: Path, out: Path, seed: int) -> None:
    """Write the same images with each other's annotations."""
    out.mkdir(parents=True, exist_ok=True)
    content = json.loads((data / "instances.json").read_bytes())
    ids = [image["id"] for image in content["images"]]
    others = dict(zip(ids, random.Random(seed).sample(ids, len(ids)), strict=True))
    for one in content["annotations"]:
        one["image_id"] = others[one["image_id"]]
    (out / "instances.json").write_text(json.dumps(content))
    if not (out / "images").exists():
        (out / "images").symlink_to((data / "images").resolve())


def random_model(out: Path) -> str:
    """Save the embedded model with random weights; its folder."""
    import torch

    from vlmheads.model.loading import load_model

    if not (out / "config.json").is_file():
        model, processor = load_model("embedded")
        draws = torch.Generator().manual_seed(0)
        for value in model.parameters():
            value.data = torch.randn(value.shape, generator=draws) * 0.02
        processor.save_pretrained(out)
        model.save_pretrained(out)
    return str(out)


def write(path: Path, result: dict[str, Any], started: float) -> None:
    """Write the result as JSON and print it."""
    result |= {"minutes": round((time.monotonic() - started) / 60, 1), "versions": versions()}
    path.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result, indent=1))


@click.command()
@click.argument("part", type=click.Choice(["held", "shuffled", "random"]))
@click.option("--out", type=click.Path(path_type=Path), default="out/tune", show_default=True)
@click.option("--model", default="embedded", show_default=True)
@click.option("--methods", default="all", show_default=True)
@click.option("--budget", help="Of each search, such as 90m.")
@click.option("--prompt", help="What captions are asked for with.")
@click.option("--num", default=SEARCHED, show_default=True, help="Images of each search.")
@click.option("--seeds", default=20, show_default=True, help="shuffled: how many searches.")
@click.option("--tokens", "max_new_tokens", default=128, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
def main(part: str, out: Path, model: str, seeds: int, **given: Any) -> None:
    """Search, and look whether the verdict can be believed."""
    started = time.monotonic()
    out = out / f"{part}-{Path(model).name}"
    if part == "held":
        outcome = search("testbed:val", out / "search", model, dict(given))
        found = json.loads(outcome.files[0].read_bytes())
        result: dict[str, Any] = {"verdict": outcome.verdict, "evidence": dict(outcome.evidence)}
        if outcome.recommended:
            methods = found["confirmation"]["methods"]
            (chosen,) = (one for one in methods if one["name"] == outcome.setting)
            on_test = tested(outcome, out / "test", model, given)
            low, high = (chosen["at_recall"]["object_f1"][end] for end in ("low", "high"))
            held = low <= (on_test["object_f1"]["value"] or 0) <= high
            result |= {"confirmed": chosen["at_recall"], "test": on_test, "held": held}
    elif part == "random":
        outcome = search("testbed:val", out / "search", random_model(out / "model"), dict(given))
        result = {"verdict": outcome.verdict}
    else:
        from vlmheads_testbed.coco import write_dataset

        if not (out / "scenes" / "captions.json").is_file():
            write_dataset(out / "scenes", "val", given["num"])
        verdicts = []
        for seed in range(seeds):
            shuffled(out / "scenes", out / f"data-{seed}", seed)
            outcome = search(str(out / f"data-{seed}"), out / f"search-{seed}", model, dict(given))
            verdicts.append(outcome.verdict)
            click.echo(f"seed {seed}: {outcome.verdict}", err=True)
        wrong = [one for one in verdicts if one.startswith("recommended")]
        result = {"searches": len(verdicts), "false": len(wrong), "verdicts": verdicts}
    write(out.with_suffix(".json"), {"given": {**given, "model": model}, **result}, started)


if __name__ == "__main__":
    main()
