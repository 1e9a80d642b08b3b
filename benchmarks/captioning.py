"""Images a second of a captioning job, against transformers alone in the same loop.

Both describe the same files in batches of the same size by greedy search: transformers alone opens
them, calls its processor, generates, decodes and keeps the texts; a job also reads ahead in
threads, checks every picture, and writes each batch to the disk. They take turns, and a figure is
the median of its rounds. With one thread on a CPU time is the processor time of this process, all
threads included, which waiting for other processes is no part of; on an accelerator it is time.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/captioning.py --out out/captioning.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from rich.console import Console
from rich.table import Table
from vlmheads_testbed.scenes import scene

import vlmheads
from vlmheads import Captioner
from vlmheads.caption import PROMPT
from vlmheads.jobs.api import caption_images
from vlmheads.jobs.run import Plan

PHOTO = (1600, 1200)


def alone(captioner: Captioner, paths: list[Path], batch_size: int, tokens: int) -> list[str]:
    """Describe files with transformers and nothing else."""
    texts: list[str] = []
    processor = captioner.processor
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}],
        add_generation_prompt=True,
    )
    for start in range(0, len(paths), batch_size):
        images = []
        for path in paths[start : start + batch_size]:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        inputs = processor(
            images=images,
            text=[text] * len(images),
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        ).to(captioner.model.device, captioner.model.dtype)
        with torch.no_grad():
            output = captioner.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts += processor.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def job(captioner: Captioner, paths: list[Path], batch_size: int, tokens: int) -> list[str]:
    """Describe files as a job, into a file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "captions.jsonl")
        plan = Plan(batch_size=batch_size)
        caption_images(captioner, paths, out, max_new_tokens=tokens, plan=plan)
        return [json.loads(line)["text"] for line in out.read_text("utf-8").splitlines()]


def images(folder: Path, number: int, photos: bool) -> list[Path]:
    """Draw scenes; as photographs they are JPEG files of 1600 x 1200."""
    paths = []
    for index in range(number):
        picture = scene("test", 0, index).image
        path = folder / f"{index:04d}.{'jpg' if photos else 'png'}"
        (picture.resize(PHOTO) if photos else picture).save(path)
        paths.append(path)
    return paths


def measure(
    captioners: dict[str, Captioner], paths: list[Path], batch_size: int, tokens: int, rounds: int
) -> dict[str, float]:
    """Return images a second of transformers alone and of a job under each captioner."""
    plain = captioners["job, plain"]
    ways: dict[str, Callable[[], list[str]]] = {
        "transformers": lambda: alone(plain, paths, batch_size, tokens)
    }
    for name, captioner in captioners.items():
        ways[name] = lambda one=captioner: job(one, paths, batch_size, tokens)  # type: ignore[misc]
    same = ways["transformers"]() == ways["job, plain"]()
    if not same:
        raise SystemExit("a job says something else than transformers alone")
    on_cpu = plain.model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if on_cpu else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = clock()
            way()
            taken[name].append(clock() - start)
    return {name: len(paths) / statistics.median(each) for name, each in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--plugin", default="vhr")
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    plain = Captioner.from_pretrained(options.model, ())
    captioners = {
        "job, plain": plain,
        f"job, {options.plugin}": Captioner(plain.model, plain.processor, options.plugin),
    }
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for photos in (False, True):
            place = Path(folder, str(photos))
            place.mkdir()
            paths = images(place, options.num, photos)
            for size in options.batch_sizes:
                name = f"{'JPEG 1600x1200' if photos else 'drawn scenes'}, batch {size}"
                figures[name] = measure(
                    captioners, paths, size, options.max_new_tokens, options.rounds
                )
    show(figures)
    about: dict[str, Any] = {
        "model": options.model,
        "images": options.num,
        "rounds": options.rounds,
        "device": str(plain.model.device),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "vlmheads": vlmheads.__version__,
        },
        "images_per_second": figures,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(about, indent=1) + "\n")


def show(figures: dict[str, dict[str, float]]) -> None:
    """Print images a second, and over transformers alone."""
    table = Table(title="images a second (over transformers alone)")
    table.add_column("")
    for name in next(iter(figures.values())):
        table.add_column(name, justify="right")
    for name, row in figures.items():
        base = row["transformers"]
        table.add_row(name, *(f"{rate:.2f} ({rate / base:.2f})" for rate in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
