"""Parts c and d: seconds an image of measuring and learning, and images a second of captioning."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import captioning
import gpu_models
import torch
from gpu_part import CUT, Part
from PIL import Image

from vlmheads import Captioner
from vlmheads.detect.attribution import attribution
from vlmheads.detect.divergence import divergence
from vlmheads.gains.learn import Example, calibrate
from vlmheads.model.loading import load_model

# Tokens of an answer that heads are measured on.
ANSWER = 24


def _timed(what: Callable[[], Any], images: int, device: str) -> dict[str, float]:
    """Seconds an image and, on a GPU, GiB at most beyond the weights, of the second of two runs."""
    found: dict[str, float] = {}
    for _ in range(2):
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        start = time.perf_counter()
        what()
        if device == "cuda":
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - held
            found["GiB beyond the weights"] = peak / 2**30
        found["seconds an image"] = (time.perf_counter() - start) / images
    return found


def measures(part: Part) -> dict[str, Any]:
    """Run part c on LLaVA: VHD, attribution both ways, and a step of calibration."""
    config = gpu_models.llava_config(part.few)
    model = gpu_models.build("LlavaForConditionalGeneration", config, part.device, part.dtype)
    one, eight = (gpu_models.llava(model, batch).inputs for batch in (1, 8))
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(5, 30000, (1, ANSWER), generator=generator)
    grounded = torch.zeros_like(targets, dtype=torch.bool)
    grounded[:, 3] = True
    example = _example(one, targets, config.text_config.vocab_size)
    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "VHD, batch 8": (lambda: divergence(model, eight), 8),
        "attribution by gradient": (
            lambda: attribution(
                model, one, targets, grounded, grounded.roll(5, 1), method="gradient"
            ),
            1,
        ),
        "calibration, one step and one held out": (
            lambda: calibrate(model, [example], [example], rounds=1),
            1,
        ),
        "attribution by ablation, 64 rows": (
            lambda: attribution(model, one, targets, grounded, grounded.roll(5, 1), rows=64),
            1,
        ),
    }
    found: dict[str, Any] = {}
    for name, (what, images) in runs.items():
        found[name] = CUT if part.late else _timed(what, images, part.device)
        part.keep(found)
    return found


def _example(inputs: Mapping[str, Any], targets: torch.Tensor, words: int) -> Example:
    """A choice at two places of an answer, between two words each."""
    better, worse = (torch.zeros(2, words, dtype=torch.bool) for _ in range(2))
    better[:, 7], worse[:, 8] = True, True
    rows, places = torch.zeros(2, dtype=torch.long), torch.tensor([2, 5])
    return Example(inputs, targets, rows, places, better, worse, torch.ones(2))


def captions(part: Part) -> dict[str, Any]:
    """Run part d: a captioning job over pictures of 336 px against transformers alone.

    The model is LLaVA's; processor and words are those of the test bench, told to make 336 px. It
    is one measurement, which is not cut short. A rehearsal has a tiny model and few pictures.
    """
    _, processor = load_model("embedded")
    size = 56 if part.few else 336
    processor.image_processor.size = {"shortest_edge": size}
    processor.image_processor.crop_size = {"height": size, "width": size}
    processor.patch_size = 14
    # With more words than the tokenizer has, most answers would be empty, and a job refuses those.
    words = len(processor.tokenizer)
    config = gpu_models.llava_config(part.few, processor.image_token_id, words)
    model = gpu_models.build("LlavaForConditionalGeneration", config, part.device, part.dtype)
    plain = Captioner(model, processor, ())
    captioners = {
        "job, plain": plain,
        "job, vhr": Captioner(model, processor, "vhr"),
        "job, cfg": Captioner(model, processor, "cfg"),
    }
    count, batch, tokens = (6, 3, 4) if part.few else (200, 32, 32)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index in range(count):
            path = Path(folder, f"{index:04d}.png")
            Image.effect_noise((336, 336), 20 + index).convert("RGB").save(path)
            paths.append(path)
        ways = captioning.measure(captioners, paths, batch, tokens, 1)
    about = f"{count} pictures of 336 px, batch {batch}, {tokens} tokens: images a second"
    found = {about: ways}
    part.keep(found)
    return found
