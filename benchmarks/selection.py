"""Which way of choosing heads finds those whose removal helps: overlap, cost, and unseen scenes.

Run: python benchmarks/selection.py --out out/selection      # can be stopped and started again
     python benchmarks/selection.py --out out/selection --model smol --methods gradient \\
         --prompt "Describe the image in detail."
Heads are chosen on captions of scenes of one seed, and switched off while the model describes
scenes of another: test scenes, and counterfactual ones. Random heads of the same number are the
control. Writes OUT/MODEL/report.json and prints its tables as Markdown.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import click
import torch
from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.paired import at_recall, figures_of
from vlmheads_eval.compare.runs import score_run
from vlmheads_eval.predict.model import versions
from vlmheads_eval.predict.run import run_prediction
from vlmheads_testbed.coco import write_dataset

import vlmheads
from vlmheads.commands.coco_words import object_spans, objects_of
from vlmheads.commands.show import quiet_loading
from vlmheads.detect import Answers, select
from vlmheads.grounding.words import token_masks
from vlmheads.headmap import GAIN, HeadMap
from vlmheads.model.anatomy import examine

FIGURES = ("CHAIRi", "CHAIRs", "recall", "object_f1")
WAYS: dict[str, dict[str, Any]] = {
    "gradient": {"method": "gradient"},
    "ablation": {"method": "ablation"},
    "path-patching": {"method": "path-patching"},
    "cd-t": {"method": "cd-t"},
    "group": {"method": "group"},
    "greedy": {"method": "greedy"},
    "greedy-identity": {"method": "greedy", "towards": "identity"},
}
LEARN_SEED, TEST_SEED = 31, 7
ACTIONS = ("off", "adhh")


def scenes(out: Path, split: str, num: int, seed: int) -> Path:
    """A folder of scenes, made if it is not there."""
    folder = out / "data" / f"{split}-{num}-{seed}"
    if not (folder / "captions.json").is_file():  # Written last.
        write_dataset(folder, split, num, seed)
    return folder


def collect(captioner: vlmheads.Captioner, folder: Path, prompt: str, tokens: int) -> list[Answers]:
    """Caption scenes, and mark the objects of the captions."""
    truth, found = objects_of(folder), []
    paths = sorted((folder / "images").iterdir())
    for start in range(0, len(paths), 8):
        some = paths[start : start + 8]
        texts = [one.text for one in captioner(some, prompt, max_new_tokens=tokens)]
        spans = [object_spans(one, truth[path.name]) for one, path in zip(texts, some, strict=True)]
        kinds = [right for right, _ in spans], [wrong for _, wrong in spans]
        ids, right, wrong = token_masks(captioner.processor.tokenizer, texts, *kinds)
        if bool(right.any() | wrong.any()):
            found.append(Answers(captioner.prepare(some, prompt), ids, right, wrong))
    return found


def choose(
    model: str, out: Path, methods: list[str], num: int, count: int, prompt: str, tokens: int
) -> dict[str, Any]:
    """Choose heads in every way that has not been done yet; name -> heads and cost."""
    kept = out / "chosen.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    if todo := [name for name in methods if name not in found]:
        quiet_loading(model)
        captioner = vlmheads.Captioner.from_pretrained(model, ())
        data = collect(captioner, scenes(out, "counterfactual", num, LEARN_SEED), prompt, tokens)
        for name in todo:
            picked = select(captioner.model, data, count=count, **WAYS[name])
            found[name] = {
                "heads": [list(head) for head in picked.heads],
                "rows": picked.passes,
                "seconds": round(picked.seconds, 1),
            }
            click.echo(f"{name}: {found[name]}", err=True)
            kept.write_text(json.dumps(found, indent=1) + "\n")
    return found


def random_heads(model: str, count: int, draws: int) -> dict[str, list[list[int]]]:
    """As many heads as were chosen, drawn by a seed."""
    quiet_loading(model)
    geometry = examine(vlmheads.Captioner.from_pretrained(model, ()).model).geometry
    every = [[layer, head] for layer in geometry.attention_layers for head in range(geometry.heads)]
    return {f"random-{draw}": random.Random(draw).sample(every, count) for draw in range(draws)}


def plugin(model: str, out: Path, name: str, heads: list[list[int]], action: str) -> str:
    """The plugin that switches heads off."""
    if action == "adhh":
        return f"adhh:heads={json.dumps([f'{a}-{b}' for a, b in heads])},threshold=0.2"
    path = out / f"{name}.safetensors"
    if not path.is_file():
        geometry = examine(vlmheads.Captioner.from_pretrained(model, ()).model).geometry
        values = torch.ones(1, geometry.layers, geometry.heads)
        for layer, head in heads:
            values[0, layer, head] = 0
        HeadMap(values, geometry, GAIN, {"heads": name}).save(path)
    return f"gains:head_map={path}"


def caption(model: str, folder: Path, out: Path, plugins: tuple[str, ...], **given: Any) -> None:
    """Caption scenes under plugins, as far as it is not done."""
    run_prediction(
        data=(str(folder),), model=model, plugins=plugins, out=out, batch_size=16, **given
    )


def mitigation(out: Path, folder: Path, names: list[str]) -> dict[str, Any]:
    """Figures of each run, and its difference from plain at equal recall."""
    variant = get_variant("pattern")
    truth = load_ground_truth([folder], variant)
    runs = {name: score_run(name, out / name, truth, variant) for name in names}
    compared = at_recall(runs["plain"], [runs[name] for name in names if name != "plain"])
    return {
        name: {figure: round(value, 4) for figure, value in figures_of(run, FIGURES).items()}
        | {"at_recall": {key: part.to_dict() for key, part in compared.get(name, {}).items()}}
        for name, run in runs.items()
    }


def overlap(chosen: dict[str, Any]) -> dict[str, dict[str, int]]:
    """How many heads each two ways share."""
    sets = {name: {tuple(head) for head in one["heads"]} for name, one in chosen.items()}
    return {one: {other: len(sets[one] & sets[other]) for other in sets} for one in sets}


def tables(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    chosen = report["chosen"]
    lines = ["| method | heads | rows | s | shares with |", "| --- | --- | --- | --- | --- |"]
    for name, one in chosen.items():
        shared = [
            f"{other} {count}"
            for other, count in report["overlap"][name].items()
            if count and other != name
        ]
        heads = " ".join(f"{a}-{b}" for a, b in one["heads"])
        lines.append(
            f"| {name} | {heads} | {one['rows']} | {one['seconds']} | {', '.join(shared) or '-'} |"
        )
    for title, runs in report["mitigation"].items():
        lines += ["", f"{title}:", "", "| heads | CHAIR_I | CHAIR_S | recall | F1 | F1 at recall |"]
        lines.append("| --- | --- | --- | --- | --- | --- |")
        for name, one in runs.items():
            f1 = one["at_recall"].get("object_f1")
            same = (
                ""
                if f1 is None or f1["value"] is None
                else (f"{100 * f1['value']:+.1f} [{100 * f1['low']:+.1f}, {100 * f1['high']:+.1f}]")
            )
            figures = " | ".join(f"{100 * one[figure]:.1f}" for figure in FIGURES)
            lines.append(f"| {name} | {figures} | {same} |")
    return "\n".join(lines)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="out/selection", show_default=True)
@click.option("--model", default="embedded", show_default=True)
@click.option("--methods", default=",".join(WAYS), show_default=True)
@click.option("--count", default=3, show_default=True, help="Heads that are chosen.")
@click.option("--num", default=16, show_default=True, help="Scenes that they are chosen on.")
@click.option("--tests", default=100, show_default=True, help="Scenes of each split to describe.")
@click.option("--draws", default=5, show_default=True, help="Sets of random heads.")
@click.option("--actions", default="off", show_default=True, help="off (always), adhh, or both.")
@click.option("--prompt", default="Describe the image.", show_default=True)
@click.option("--tokens", default=96, show_default=True)
def main(
    out: Path,
    model: str,
    methods: str,
    count: int,
    num: int,
    tests: int,
    draws: int,
    actions: str,
    prompt: str,
    tokens: int,
) -> None:
    """Choose heads, switch them off on unseen scenes, and compare."""
    for asked, known in ((methods, WAYS), (actions, ACTIONS)):
        if unknown := [name for name in asked.split(",") if name not in known]:
            raise click.UsageError(f"{unknown[0]!r}; expected some of {', '.join(known)}")
    torch.set_num_threads(1)
    out = out / Path(model).name
    out.mkdir(parents=True, exist_ok=True)
    chosen = choose(model, out, methods.split(","), num, count, prompt, tokens)
    chosen = {name: chosen[name] for name in methods.split(",")}
    sets = {name: one["heads"] for name, one in chosen.items()}
    sets |= random_heads(model, count, draws)
    report: dict[str, Any] = {"chosen": chosen, "overlap": overlap(chosen), "mitigation": {}}
    for split in ("test", "counterfactual"):
        folder = scenes(out, split, tests, TEST_SEED)
        given = {"prompt": prompt, "max_new_tokens": tokens}
        for action in actions.split(","):
            place = out / f"{split}-{action}"
            caption(model, folder, place / "plain", (), **given)
            for name, heads in sets.items():
                if heads:
                    how = plugin(model, out, name, heads, action)
                    caption(model, folder, place / name, (how,), **given)
            names = ["plain", *(name for name, heads in sets.items() if heads)]
            title = f"{split} scenes, heads {action}"
            report["mitigation"][title] = mitigation(place, folder, names)
    report |= {"count": count, "chosen_on": num, "tests": tests, "versions": versions()}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    click.echo(tables(report))


if __name__ == "__main__":
    main()
