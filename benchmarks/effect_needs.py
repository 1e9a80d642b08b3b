"""What some plugins need to have learned, from scenes that benchmarks/effect.py does not score."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from vlmheads_eval.calibrate.report import shuffled_gains
from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.spans import caption_spans, mention_spans
from vlmheads_eval.chair.variants import Variant, get_variant
from vlmheads_eval.data import Sample, load_material
from vlmheads_eval.predict.model import Generator
from vlmheads_plugins.icd import PREFIX
from vlmheads_plugins.vti import measure_directions

import vlmheads
from vlmheads.detect import Attribution, attribution
from vlmheads.detect.attribution import Method
from vlmheads.grounding.words import token_masks
from vlmheads.headmap import HeadMap
from vlmheads.images import read_image
from vlmheads.learned import Learned
from vlmheads.model.anatomy import examine

TOKENS = 64  # Of the captions that heads are ranked on, at most.
BOTH = 48  # Images with true and invented words that heads are ranked on.
TOGETHER = 4  # Of them at a time: a gradient keeps what every layer said about each.
PAIRS = 70  # Of a truthful and an invented caption, as many as VTI's authors took.
COUNTS = (3, 6, 12)  # Heads at the top and at the bottom of the ranking.


def learn(
    captioner: vlmheads.Captioner,
    folders: list[Path],
    out: Path,
    *,
    draws: int,
    method: Method = "ablation",
    prompt: str | None = None,
    tokens: int = TOKENS,
    seed: int = 1,
) -> None:
    """Rank heads, measure directions and draw random heads, and keep it all in OUT/needs.json.

    Args:
        captioner: the plain model.
        folders: COCO folders of images that are not scored, most like training first.
        out: where things are kept.
        draws: of random heads.
        method: how heads are ranked; ablation makes a pass for each head and caption.
        prompt: what is asked for captions; by default the evaluator's.
        tokens: of the captions that heads are ranked on, at most.
        seed: of the random draws.
    """
    out.mkdir(parents=True, exist_ok=True)
    reading = get_variant("pattern")
    heads = _ranked(captioner, folders, reading, method, prompt, tokens)
    found = {f"worst{count}": _listed(heads[:count]) for count in COUNTS}
    found |= {f"best{count}": _listed(heads[-count:]) for count in COUNTS}
    found["directions"] = _directions(captioner, folders[0], reading, out, prompt, seed)
    coded = captioner.processor.tokenizer(PREFIX, add_special_tokens=False)
    found["prefix"] = json.dumps(coded["input_ids"]).replace(" ", "")
    geometry = examine(captioner.model).geometry
    found |= layer_choices(geometry.layers)
    for draw in range(draws):
        found |= _random(geometry, draw, out)
    (out / "needs.json").write_text(json.dumps(found, indent=1) + "\n")


def learned(out: Path, *, draws: int) -> dict[str, str]:
    """Return what options refer to by name, as `learn` kept it.

    Gains that `vlmheads calibrate` wrote are taken from OUT/gains.safetensors where they are, what
    `vlmheads learn` wrote from OUT/NAME.safetensors: tables (adaiat), pool (cicd), basis (nullu),
    risk (revis), cached (pti), vectors and trained (offsets, by ITI and LoFiT), visual
    (vti-visual) and ratios (havae).
    """
    needs: dict[str, str] = json.loads((out / "needs.json").read_text())
    for name in (
        *("tables", "pool", "basis", "risk", "cached"),
        *("vectors", "trained", "visual", "ratios"),
    ):
        path = out / f"{name}.safetensors"
        if path.is_file():
            needs[name] = str(path)
    gains = out / "gains.safetensors"
    if gains.is_file():
        needs["gains"] = str(gains)
        for draw in range(draws):
            path = out / f"shuffled-{draw}.safetensors"
            shuffled_gains(HeadMap.load(gains), draw).save(path)
            needs[f"shuffled-{draw}"] = str(path)
    if "vectors" in needs:
        for draw in range(draws):
            path = out / f"scattered-{draw}.safetensors"
            _scattered(Learned.load(needs["vectors"]), draw).save(path)
            needs[f"scattered-{draw}"] = str(path)
    return needs


def _scattered(vectors: Learned, seed: int) -> Learned:
    """Return the same vectors with the heads' scores permuted: other heads get theirs."""
    scores = vectors.values["scores"]
    order = torch.randperm(scores.numel(), generator=torch.Generator().manual_seed(seed))
    values = {**vectors.values, "scores": scores.flatten()[order].view_as(scores)}
    about = {"from": "offsets at random heads", "seed": seed}
    return Learned(vectors.method, values, vectors.geometry, about)


def layer_choices(layers: int) -> dict[str, str]:
    """Layers of a decoder that VHR is tried on beside its own choice, as options take them."""
    return {"first half": json.dumps(list(range(layers // 2))), "all": json.dumps([*range(layers)])}


def _ranked(
    captioner: vlmheads.Captioner,
    folders: list[Path],
    reading: Variant,
    method: Method,
    prompt: str | None,
    tokens: int,
) -> list[tuple[int, int]]:
    """All heads, those first whose removal helps true words most against invented ones."""
    parts = []
    answer = Generator(captioner, tokens)
    found = 0
    for folder in reversed(folders):  # Where more is invented comes first.
        truth = load_ground_truth([folder], reading)
        material = load_material([str(folder)], "caption", workspace=folder, prompt=prompt)
        samples = material.samples
        for batch in (samples[at : at + 50] for at in range(0, len(samples), 50)):
            images = [read_image(sample.image) for sample in batch]
            said = answer(images, [sample.prompt for sample in batch])
            marked = [
                caption_spans(one.text, truth.objects[sample.key], reading)
                for one, sample in zip(said, batch, strict=True)
            ]
            both = [at for at, one in enumerate(marked) if one.grounded and one.hallucinated]
            both = both[: BOTH - found]
            found += len(both)
            for some in (both[at : at + TOGETHER] for at in range(0, len(both), TOGETHER)):
                inputs = captioner.prepare([images[at] for at in some], batch[0].prompt)
                chosen = [marked[at] for at in some]
                ids, true, invented = token_masks(
                    captioner.processor.tokenizer,
                    [one.text for one in chosen],
                    [one.grounded for one in chosen],
                    [one.hallucinated for one in chosen],
                )
                parts.append(
                    attribution(captioner.model, inputs, ids, true, invented, method=method)
                )
            if found >= BOTH:
                break
    score = Attribution.concatenate(parts).score
    return [(layer, head) for layer, head, _ in score.top(score.mean().numel())]


def _directions(
    captioner: vlmheads.Captioner,
    folder: Path,
    reading: Variant,
    out: Path,
    prompt: str | None,
    seed: int,
) -> str:
    """VTI's directions: true captions against the same with one object put in another's place."""
    draw = random.Random(seed)
    truth = load_ground_truth([folder], reading)
    material = load_material([str(folder)], "caption", workspace=out, prompt=prompt)
    samples = {one.key: one for one in material.samples}
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    names = sorted({name for objects in truth.objects.values() for name in objects})
    (captions,) = [file for file in truth.files if file.name.startswith("captions")][:1]
    for entry in json.loads(captions.read_bytes())["annotations"][::5]:
        sample, text = samples[str(entry["image_id"])], entry["caption"]
        mentions = reading.read(text).mentions
        spans = [span for mention in mentions for span in mention_spans(text, (mention,))]
        if not spans or len(pairs) == PAIRS:
            continue
        start, end = draw.choice(spans)
        other = draw.choice([name for name in names if name not in truth.objects[sample.key]])
        invented = text[:start] + other + text[end:]
        pairs.append((_taught(captioner, sample, text), _taught(captioner, sample, invented)))
    path = out / "directions.safetensors"
    measure_directions(captioner.model, pairs, {"pairs from": folder.name}).save(path)
    return str(path)


def _taught(captioner: vlmheads.Captioner, sample: Sample, text: str) -> Mapping[str, Any]:
    """Inputs for one prompt with a caption behind it."""
    inputs = dict(captioner.prepare([read_image(sample.image)], sample.prompt))
    coded = captioner.processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.cat([inputs[name], coded[name].to(inputs[name])], dim=1)
    return inputs


def _random(geometry: Any, draw: int, out: Path) -> dict[str, str]:
    """Heads drawn at random: lists, and a map whose upper half of each layer is chosen."""
    every = [(layer, head) for layer in range(geometry.layers) for head in range(geometry.heads)]
    random.Random(draw).shuffle(every)
    values = torch.rand(
        (1, geometry.layers, geometry.heads), generator=torch.Generator().manual_seed(draw)
    )
    path = out / f"map-{draw}.safetensors"
    HeadMap(values, geometry, "random", {"seed": draw}).save(path)
    return {
        f"any3-{draw}": _listed(every[:3]),
        f"other3-{draw}": _listed(every[3:6]),
        f"map-{draw}": str(path),
    }


def _listed(heads: list[tuple[int, int]]) -> str:
    return json.dumps([f"{layer}-{head}" for layer, head in heads]).replace(" ", "")
