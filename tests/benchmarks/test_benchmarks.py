"""The figures of the benchmarks of speed are sane; how long anything takes is not asserted."""

from __future__ import annotations

from contextlib import nullcontext

import overhead
import pytest
import timing
import tiny
from benches import Bench

import vlmheads


@pytest.fixture
def bench() -> Bench:
    return Bench("tiny", tiny.build("llava"), tiny.inputs("llava"), 4)


def test_every_plugin_is_timed_and_belongs_to_one_kind() -> None:
    model = tiny.build("llava")
    labels = set(overhead.cases(model, None))
    kinds = [label for names in overhead.KINDS.values() for label in names.split()]
    assert {*vlmheads.list_plugins(), *overhead.VARIANTS} == labels
    assert sorted(labels) == sorted(kinds)


def test_every_plugin_can_be_attached_under_the_options_that_are_timed() -> None:
    model = tiny.build("llava")
    for plugin in overhead.cases(model, None).values():
        vlmheads.attach(model, plugin).detach()


def test_a_generation_has_a_prefill_and_decoding_that_take_time(bench: Bench) -> None:
    times = timing.seconds(bench, nullcontext())
    assert times.prefill > 0
    assert times.decode > 0
    assert times.whole >= times.prefill + 3 * times.decode


def test_the_peak_of_memory_is_that_of_the_tensors_of_a_generation(bench: Bench) -> None:
    width = bench.model.config.text_config.hidden_size
    embeddings = bench.inputs["input_ids"].numel() * width * 4
    weights = sum(part.numel() for part in bench.model.parameters()) * 4
    assert embeddings < timing.peak_memory(bench, nullcontext()) < weights


def test_a_contrast_needs_more_memory_and_a_steering_does_not(bench: Bench) -> None:
    cases = overhead.cases(bench.model, ["vcd", "vti"])
    ratios = timing.compare(bench, cases, rounds=1)
    assert ratios["vcd"]["memory"] > 1.5
    assert ratios["vti"]["memory"] < 1.2
    assert all(value > 0 for values in ratios.values() for value in values.values())


@pytest.mark.parametrize(
    ("label", "device", "batch", "expected"),
    [
        ("vhr", "cpu", 1, {"decode": 1.03, "prefill": 1.15, "memory": 1.03}),
        ("pai", "cpu", 8, {"memory": 1.05}),
        ("pai", "cuda", 8, {"decode": 1.05, "memory": 1.02}),
        ("cfg", "cuda", 1, {"decode": 1.15}),
        ("cfg", "cuda", 32, {"decode": 1.7}),
        ("pai-guided", "cpu", 1, {"decode": 1.7}),
        ("memvr", "cpu", 1, {"memory": 1.05}),
    ],
)
def test_targets_hang_on_the_kind_the_device_and_the_batch(
    label: str, device: str, batch: int, expected: dict[str, float]
) -> None:
    assert expected == overhead.targets(label, device, batch)
