"""What one generate() takes, and how plugins compare with plain generate() in one process."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from benches import Bench

from vlmheads import Plugin, VlmHeadsError, attach

# Plugins between one plain run and the next.
GROUP = 3


@dataclass(frozen=True)
class Times:
    """Seconds of one generate().

    Args:
        prefill: until the first token, what a plugin does before it included.
        decode: of each token after it.
        whole: of the call.
        memory: bytes that a GPU held at most beyond the model's weights; not measured on a CPU.
    """

    prefill: float
    decode: float
    whole: float
    memory: float = math.nan


def seconds(bench: Bench, context: AbstractContextManager[Any]) -> Times:
    """Time one generate() inside of `context`.

    With one thread on a CPU it is processor time of this process, which waiting for other
    processes is no part of.
    """
    marks: list[float] = []
    alone = bench.model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter

    on_gpu = bench.model.device.type == "cuda"

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return clock()

    def mark(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        marks.append(now())
        return scores

    with context:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if on_gpu else 0
        start = now()
        bench.model.generate(
            **bench.inputs,
            max_new_tokens=bench.new_tokens,
            min_new_tokens=bench.new_tokens,
            do_sample=False,
            logits_processor=[mark],
            pad_token_id=0,
            **bench.options,
        )
        end = now()
    memory = torch.cuda.max_memory_allocated() - held if on_gpu else math.nan
    decode = (marks[-1] - marks[0]) / (len(marks) - 1)
    return Times(marks[0] - start, decode, end - start, memory)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what native code writes to stderr out of it: the profiler announces itself there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def peak_memory(bench: Bench, context: AbstractContextManager[Any]) -> int:
    """Peak bytes of the tensors that one generation allocates on a CPU, without the weights."""
    profile = torch.profiler.profile(profile_memory=True)
    with _silent():
        profile.start()
    seconds(bench, context)
    with _silent():
        profile.stop()
    results: Any = profile.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def least(times: list[Times]) -> Times:
    """The least of several runs, figure by figure: other work on the machine only adds to it."""
    names = [field.name for field in fields(Times)]
    return Times(**{name: min(getattr(one, name) for one in times) for name in names})


def compare(
    bench: Bench,
    plugins: dict[str, Plugin],
    rounds: int,
    *,
    until: float = math.inf,
    done: Callable[[dict[str, dict[str, Any]]], None] = lambda found: None,
) -> dict[str, dict[str, Any]]:
    """Ratios of each plugin to plain generate(): prefill, decode, whole, and peak memory.

    In a round every plugin runs once, and plain generate() before every three of them. A figure is
    the least of a plugin's runs over the least of as many plain runs, those beside it. On a CPU
    memory is measured in one more run of each.

    Args:
        bench: what to run.
        plugins: by label; one that refuses the model has the reason under "refused".
        rounds: how many times each runs.
        until: by `time.monotonic`, when to begin with no more of them; those have a "cut".
        done: told what was found so far, after each three.
    """
    found: dict[str, dict[str, Any]] = {}
    labels = list(plugins)
    first = replace(bench, new_tokens=3)
    short = replace(bench, new_tokens=min(16, bench.new_tokens))
    on_gpu = bench.model.device.type == "cuda"
    seconds(first, nullcontext())
    plain_memory = math.nan if on_gpu else peak_memory(short, nullcontext())
    for start in range(0, len(labels), GROUP):
        group = []
        for label in labels[start : start + GROUP]:
            if time.monotonic() > until:
                found[label] = {"cut": "the time was up"}
                continue
            try:  # the first run of any pays for what is made once
                seconds(first, attach(bench.model, plugins[label]))
                group.append(label)
            except VlmHeadsError as error:
                found[label] = {"refused": str(error)}
        plain: list[Times] = []
        under: dict[str, list[Times]] = {label: [] for label in group}
        for _ in range(rounds if group else 0):
            plain.append(seconds(bench, nullcontext()))
            for label in group:
                under[label].append(seconds(bench, attach(bench.model, plugins[label])))
        for label in group:
            one, other = least(under[label]), least(plain)
            found[label] = {
                field.name: getattr(one, field.name) / getattr(other, field.name)
                for field in fields(Times)
            }
            if not on_gpu:
                used = peak_memory(short, attach(bench.model, plugins[label]))
                found[label]["memory"] = used / plain_memory
            found[label]["plain_seconds"] = other.whole
        done(found)
    return found
