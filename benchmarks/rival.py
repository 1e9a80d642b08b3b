"""Time mitigv, the other library of such methods on PyPI, against plain generate().

It gets an environment of its own, with the same torch and transformers, and runs there on the
same models as benchmarks/overhead.py. Each of its methods is timed in pairs with plain runs of the
same process, each first in turn; what counts is the least of the one over the least of the other.
Both sides read the image, generate the same number of tokens and turn them into text. The prefill
is a call for one token, the whole one for N; a decoded token is what that takes beyond, by N - 1.
With one thread, time is the processor time of the process, which waiting for others is no part of.

    taskset -c 1 python benchmarks/rival.py --out out/rival.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

RIVAL = "mitigv==0.1.7"
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
PROMPT = "Describe the image."

# Label -> name of its method, options, beams. Options are its defaults but for what a label says.
METHODS: dict[str, tuple[str, dict[str, Any], int]] = {
    "pai, attention only": ("pai", {"gamma": 1.0}, 1),
    "pai": ("pai", {}, 1),
    "vista": ("vista", {}, 1),
    "m3id": ("m3id", {}, 1),
    "vcd": ("vcd", {}, 1),
    "icd": ("icd", {}, 1),
    "agla": ("agla", {}, 1),
    "only": ("only", {}, 1),
    "opera": ("opera", {"num_beams": 5}, 5),
    "linear_probe_steer": ("linear_probe_steer", {"layer": 4}, 1),
}


BENCHES = ("embedded", "random")


@dataclass(frozen=True)
class Bench:
    """A model, its processor and how many tokens to generate."""

    name: str
    model: Any
    processor: Any
    image: Any
    new_tokens: int


def make_environment(folder: Path) -> Path:
    """Return the interpreter of an environment with the rival in it, made where it is missing."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
        ours = f"transformers=={version('transformers')}"
        subprocess.run([*install, "torch", ours, "pillow", RIVAL], check=True)
    return python


# What follows runs in that environment, where vlmheads is not installed.


def embedded(folder: str) -> Bench:
    """The test-bench model, with its processor."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    ).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    size = model.config.vision_config.image_size
    image = Image.effect_noise((size, size), 64).convert("RGB")
    return _endless(Bench("embedded", model, processor, image, 48))


def random_llava(folder: str, layers: int = 8, width: int = 512, heads: int = 8) -> Bench:
    """A random model with LLaVA-1.5's proportions, as in overhead.py; the tokenizer is borrowed."""
    import torch
    from PIL import Image
    from transformers import (
        AutoProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    processor = AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    processor.image_processor.size = {"shortest_edge": 336}
    processor.image_processor.crop_size = {"height": 336, "width": 336}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            hidden_size=width,
            intermediate_size=width * 43 // 16,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            vocab_size=32064,
        ),
        image_token_index=processor.image_token_id,
    )
    model = LlavaForConditionalGeneration(config).eval()
    image = Image.effect_noise((336, 336), 64).convert("RGB")
    return _endless(Bench(f"random {layers} layers x {width}", model, processor, image, 48))


def _endless(bench: Bench) -> Bench:
    """Take the end token away on both sides, so that every run has the same length."""
    bench.model.generation_config.eos_token_id = None
    bench.model.generation_config.pad_token_id = 0
    bench.processor.tokenizer.eos_token = None
    return bench


def rendered(bench: Bench) -> str:
    """The prompt as the model's chat template writes it, with a place for the image."""
    content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    text: str = bench.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return text


def plain(bench: Bench, beams: int) -> Callable[[int], Any]:
    """A call of plain generate() for a number of tokens, from image to text."""
    text = rendered(bench)

    def call(count: int) -> Any:
        inputs = bench.processor(text=text, images=bench.image, return_tensors="pt")
        output = bench.model.generate(
            **inputs, max_new_tokens=count, do_sample=False, num_beams=beams
        )
        return bench.processor.batch_decode(output, skip_special_tokens=True)

    return call


def rival(bench: Bench, label: str, adapted: bool) -> Callable[[int], Any]:
    """A call of a method of the rival for a number of tokens, from image to text.

    Args:
        bench: what to run it on.
        label: one of METHODS.
        adapted: as its documentation begins, with its adapter of LLaVA around the model; or else
            around the bare model and processor, which its documentation also allows.
    """
    import torch

    mitigv = import_module("mitigv")
    method, options, _ = METHODS[label]
    make = mitigv.load_mitigator if adapted else mitigv.build_mitigator
    mitigator = make(method, model=bench.model, processor=bench.processor, **options)
    if method == "linear_probe_steer":
        mitigator.steering_vector = torch.ones(bench.model.config.text_config.hidden_size)
    prompt = PROMPT if adapted else rendered(bench)
    return lambda count: mitigator(bench.image, prompt, max_new_tokens=count)


def seconds(bench: Bench, call: Callable[[int], Any]) -> tuple[float, float]:
    """Seconds of a call for one token, and of one for all of them."""
    import torch

    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call(1)
    middle = clock()
    call(bench.new_tokens)
    end = clock()
    return middle - start, end - middle


def compare(bench: Bench, label: str, pairs: int) -> dict[str, Any]:
    """Ratios of a method to plain generate, and how each way to run it failed before one did."""
    found: dict[str, Any] = {}
    for way, adapted in (("adapted", True), ("bare", False)):
        try:
            theirs = rival(bench, label, adapted)
            theirs(3)
            break
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            found[way] = f"{type(error).__name__}: {first}"
    else:
        return found
    beams = METHODS[label][2]
    if beams > 1:  # it looks ahead for each beam, which takes long
        bench = replace(bench, new_tokens=8)
    calls = (plain(bench, beams), theirs)
    calls[0](3)
    times: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    for index in range(pairs):
        for side in (0, 1) if index % 2 == 0 else (1, 0):
            times[side].append(seconds(bench, calls[side]))
    firsts = [min(first for first, _ in times[side]) for side in (0, 1)]
    wholes = [min(whole for _, whole in times[side]) for side in (0, 1)]
    rest = [whole - first for first, whole in zip(firsts, wholes, strict=True)]
    return found | {
        "way": way,
        "prefill": firsts[1] / firsts[0],
        "decode": rest[1] / rest[0],
        "whole": wholes[1] / wholes[0],
    }


def work(arguments: argparse.Namespace) -> None:
    """Time every method, in the rival's environment, and write what was found as JSON."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    packages = ("mitigv", "torch", "transformers")
    result: dict[str, Any] = {
        "versions": {name: version(name) for name in packages},
        "threads": arguments.threads,
        "pairs": arguments.pairs,
        "ratios": {},
    }
    for name in arguments.benches:
        bench = {"embedded": embedded, "random": random_llava}[name](arguments.model)
        found = {label: compare(bench, label, arguments.pairs) for label in arguments.methods}
        result["ratios"][bench.name] = found
        print(f"{bench.name}, batch 1: ratio to plain generate")
        for label, values in found.items():
            if "way" in values:
                figures = ("prefill", "decode", "whole")
                shown = "  ".join(f"{figure} {values[figure]:.3f}" for figure in figures)
                print(f"  {label:20} {shown}  ({values['way']})", flush=True)
            for way in ("adapted", "bare"):
                if way in values:
                    print(f"  {label:20} {way}: {values[way]}", flush=True)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1))


def start(arguments: argparse.Namespace) -> int:
    """Run `work` in the rival's environment, and return how it ended.

    Args:
        arguments: as `parser` reads them; without an environment one is made and thrown away.
    """
    with tempfile.TemporaryDirectory() as temporary:
        python = make_environment(arguments.environment or Path(temporary))
        command = [str(python), __file__, "--work", "--model", str(arguments.model)]
        command += ["--pairs", str(arguments.pairs), "--threads", str(arguments.threads)]
        command += ["--methods", *arguments.methods, "--benches", *arguments.benches]
        if arguments.out is not None:
            command += ["--out", str(arguments.out)]
        offline = os.environ | {"HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, env=offline, check=False).returncode


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--environment", type=Path, help="folder to make or find it in")
    parser.add_argument("--model", help="folder of the test-bench model; by default the packaged")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs for each ratio")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--benches", nargs="*", choices=BENCHES, default=list(BENCHES), help="models to time it on"
    )
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    arguments = parser().parse_args()
    if arguments.work:
        work(arguments)
        return
    if arguments.model is None:
        from vlmheads_testbed import embedded_model

        arguments.model = str(embedded_model())
    sys.exit(start(arguments))


if __name__ == "__main__":
    main()
