"""Part b: what plugins cost at 7B, as ratios to plain generate(), with peak memory."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import gpu_models
import overhead
from benches import Bench
from gpu_part import CUT, Part
from timing import compare, seconds

from vlmheads import VlmHeadsError, attach

# One plugin of each kind, for the second model and for what takes long.
SOME = (
    *("vhr", "spin", "pai", "var", "zerotuning", "vti", "vista", "cfg", "vcd", "m3id"),
    *("deco", "memvr", "kvsmooth"),
)
# Those that a static cache, and so the graph that generate() compiles for it, is timed with.
COMPILED = ("vhr", "pai", "vti")
BATCHES = (1, 8, 32)
ROUNDS = 2


def speed(part: Part) -> dict[str, Any]:
    """Run part b: LLaVA with every plugin, Qwen2.5-VL with some, then static caches.

    A rehearsal has tiny models, two batch sizes and some plugins.
    """
    found: dict[str, Any] = {"ratios": {}, "static": {}}
    batches = BATCHES[:2] if part.few else BATCHES

    def run(bench: Bench, names: list[str] | None, share: float) -> None:
        """Compare plugins on a bench, in a share of the time that is left."""
        now = time.monotonic()
        chosen = overhead.cases(bench.model, names)

        def done(ratios: dict[str, Any]) -> None:
            found["ratios"][bench.name] = ratios
            part.keep(found)

        limit = now + share * max(0.0, part.until - now)
        compare(bench, chosen, 1 if part.few else ROUNDS, until=limit, done=done)

    config = gpu_models.llava_config(part.few)
    model = gpu_models.build("LlavaForConditionalGeneration", config, part.device, part.dtype)
    for batch, share in zip(batches, (0.2, 0.3, 0.6), strict=False):
        run(gpu_models.llava(model, batch), list(SOME[::4]) if part.few else None, share)
    small = gpu_models.llava(model, 1)
    config = gpu_models.qwen_config(part.few)
    model = gpu_models.build("Qwen2_5_VLForConditionalGeneration", config, part.device, part.dtype)
    for batch, share in zip(batches, (0.2, 0.3, 0.5), strict=False):
        run(
            gpu_models.qwen(model, batch, part.few),
            list(SOME[::6]) if part.few else list(SOME),
            share,
        )
    found["static"] = static(small, part, ("vhr",) if part.few else COMPILED)
    part.keep(found)
    return found


def static(bench: Bench, part: Part, names: tuple[str, ...]) -> dict[str, Any]:
    """Time a static cache, for which generate() compiles decoding on a GPU, plain and attached.

    A graph goes with the attachment, so that each is compiled once, before it is timed.
    """
    bench = replace(bench, options={"cache_implementation": "static"})
    found: dict[str, Any] = {}
    for name in ("plain", *names):
        if part.late:
            found[name] = CUT
            continue
        plugins = {} if name == "plain" else overhead.cases(bench.model, [name])
        start = time.monotonic()
        try:
            with attach(bench.model, plugins[name]) if plugins else nullcontext():
                seconds(replace(bench, new_tokens=3), nullcontext())
                compiled = time.monotonic() - start
                times = seconds(bench, nullcontext())
        except VlmHeadsError as error:
            found[name] = {"refused": str(error)}
            continue
        found[name] = {
            "first call, seconds": compiled,
            "decode, seconds a token": times.decode,
            "prefill, seconds": times.prefill,
        }
    return found
