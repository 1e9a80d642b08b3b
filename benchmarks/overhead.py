"""Time plain generate() against generate() under plugins, in one process and interleaved.

Every plugin is timed in pairs with plain runs, plain first and second in turn; what counts is the
median of the ratios of the pairs, since a machine's speed drifts. The prefill is the time to the
first token, decoding what comes after it.

    python benchmarks/overhead.py --out out/overhead.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

import vlmheads
from vlmheads import Plugin, attach, get_plugin, list_plugins
from vlmheads.models import load_model

IMAGE_TOKENS, TEXT_TOKENS = 576, 32


@dataclass(frozen=True)
class Bench:
    """A model, a prompt for it, and how many tokens to generate."""

    name: str
    model: Any
    inputs: dict[str, torch.Tensor]
    new_tokens: int


def embedded(batch: int) -> Bench:
    """The test-bench model on noise; its 64 image tokens and short texts show fixed costs most."""
    model, processor = load_model("embedded")
    size = model.config.vision_config.image_size
    ids = torch.tensor([processor.tokenizer("USER: <image>\nDescribe the image.").input_ids])
    count = model.config.image_seq_length
    image = torch.full((1, count), model.config.image_token_id)
    at = int((ids[0] == model.config.image_token_id).nonzero()[0])
    ids = torch.cat([ids[:, :at], image, ids[:, at + 1 :]], dim=1).expand(batch, -1)
    pixels = torch.randn(batch, 3, size, size, dtype=model.dtype)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return Bench(f"embedded, batch {batch}", model, inputs, 48)


def llava(layers: int, width: int, heads: int, batch: int, new_tokens: int, dtype: Any) -> Bench:
    """A random model with LLaVA-1.5's proportions: 576 image tokens and 32 of text."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=336,
            patch_size=14,
        ),
        text_config=transformers.LlamaConfig(
            hidden_size=width,
            intermediate_size=width * 43 // 16,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            vocab_size=32064,
        ),
        image_token_index=32000,
    )
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(place):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = transformers.LlavaForConditionalGeneration(config).eval()
        torch.set_default_dtype(before)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, 30000, (batch, TEXT_TOKENS), generator=generator)
    image = torch.full((batch, IMAGE_TOKENS), 32000)
    ids = torch.cat([text[:, :5], image, text[:, 5:]], dim=1).to(place)
    pixels = torch.randn(batch, 3, 336, 336, generator=generator).to(place, dtype)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    name = f"random {layers} layers x {width}, batch {batch}"
    return Bench(name, model, inputs, new_tokens)


def seconds(bench: Bench, context: AbstractContextManager[Any]) -> tuple[float, float]:
    """Seconds of one prefill, and of each decoded token after it."""
    marks: list[float] = []

    def mark(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.is_cuda:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        return scores

    with context:
        start = time.perf_counter()
        bench.model.generate(
            **bench.inputs,
            max_new_tokens=bench.new_tokens,
            min_new_tokens=bench.new_tokens,
            do_sample=False,
            logits_processor=[mark],
            pad_token_id=0,
        )
    return marks[0] - start, (marks[-1] - marks[0]) / (len(marks) - 1)


def peak_memory(bench: Bench, context: AbstractContextManager[Any]) -> int:
    """Peak bytes of the tensors that one generation allocates."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(bench, context)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        seconds(bench, context)
    events = [
        event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def compare(bench: Bench, plugin: Plugin, pairs: int) -> dict[str, float]:
    """Ratios of a plugin to plain generate: prefill, decoding and peak memory."""

    def under() -> AbstractContextManager[Any]:
        return attach(bench.model, plugin)

    ratios = []
    seconds(bench, under())  # the first run of either pays for what is made once
    for index in range(pairs):
        order: list[Callable[[], AbstractContextManager[Any]]] = [nullcontext, under]
        first, second = (order, order[::-1])[index % 2]
        results = {make: seconds(bench, make()) for make in (first, second)}
        plain, plugged = results[nullcontext], results[under]
        ratios.append((plugged[0] / plain[0], plugged[1] / plain[1]))
    memory = peak_memory(bench, under()) / peak_memory(bench, nullcontext())
    prefill, decode = zip(*ratios, strict=True)
    return {
        "prefill": statistics.median(prefill),
        "decode": statistics.median(decode),
        "memory": memory,
    }


def import_seconds(code: str, repeats: int = 5) -> float:
    """Median seconds of a fresh interpreter that runs `code`, less that of an empty one."""

    def once(text: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", text], check=True, capture_output=True)
        return time.perf_counter() - start

    pairs = [once(code) - once("pass") for _ in range(repeats)]
    return statistics.median(pairs)


def benches() -> Iterator[Callable[[], Bench]]:
    """The models to time on this machine, each built when its turn comes."""
    if torch.cuda.is_available():
        for batch in (1, 8):
            yield partial(llava, 32, 4096, 32, batch, 64, torch.bfloat16)
        return
    for batch in (1, 8):
        yield partial(embedded, batch)
    for batch in (1, 8):
        yield partial(llava, 8, 512, 8, batch, 64, torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plugins", nargs="*", help="names; all that need no options by default")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs for each ratio")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    result: dict[str, Any] = {
        "versions": {
            "vlmheads": vlmheads.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "machine": {"device": device or platform.machine(), "threads": arguments.threads},
        "pairs": arguments.pairs,
        "import": {
            "import vlmheads": import_seconds("import vlmheads"),
            "vlmheads --help": import_seconds(
                "from vlmheads.cli import main; main(['--help'], standalone_mode=False)"
            ),
            "import torch": import_seconds("import torch", 3),
        },
        "ratios": {},
    }
    table = Table(title="ratio to plain generate, median of pairs")
    for column in ("model", "plugin", "prefill", "decode", "peak memory"):
        table.add_column(column, justify="left" if column in ("model", "plugin") else "right")
    for build in benches():
        bench = build()
        seconds(bench, nullcontext())
        for name in arguments.plugins or list_plugins():
            ratios = compare(bench, get_plugin(name)(), arguments.pairs)
            result["ratios"].setdefault(bench.name, {})[name] = ratios
            values = (f"{ratios[key]:.3f}" for key in ("prefill", "decode", "memory"))
            table.add_row(bench.name, name, *values)
    console = Console()
    console.print(table)
    for what, value in result["import"].items():
        console.print(f"{what}: {value * 1000:.0f} ms beyond an empty interpreter")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
