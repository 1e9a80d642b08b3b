"""Streams that are prefilled at their own length say what they say in the main one's batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import pytest
import tiny
import torch
from active import make
from torch import Tensor, nn
from transformers import DynamicCache

from vlmheads import attach
from vlmheads.plugin import Plugin
from vlmheads.runtime.cache import RoomyLayer, StreamCache
from vlmheads.runtime.compat import takes_encoded_images
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import TEXT_ONLY, Stream

LENGTHS = (3, 7)
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "no cache": {"use_cache": False},
}
# Hiding nothing is a reason for one batch.
TOGETHER = replace(TEXT_ONLY, hide=lambda request, layer, keys: None)


@dataclass(frozen=True, eq=False)
class Guided(Plugin):
    """Push the logits away from a text-only stream."""

    name: ClassVar[str] = "guided"
    stream: Stream = TEXT_ONLY

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (self.stream,)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        return 2 * logits - request.streams[TEXT_ONLY.name]


@dataclass(frozen=True, eq=False)
class Looking(Guided):
    """The same, looking at the heads of the stream."""

    name: ClassVar[str] = "looking"

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        assert request.stream_heads[TEXT_ONLY.name].shape == heads.shape
        return heads


def shapes(model: Any, plugin: Plugin, inputs: dict[str, Tensor], **options: Any) -> Any:
    """What a generation gave, and rows and columns of each of its forward passes."""
    seen: list[tuple[int, int]] = []

    def look(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        seen.append(tuple(states.shape[:2]))

    layer = model.get_decoder().layers[0]
    hook = layer.register_forward_hook(look)
    settings = {"do_sample": False, "max_new_tokens": 5, "return_dict_in_generate": True} | options
    try:
        with attach(model, plugin):
            output = model.generate(**inputs, **settings, output_logits=True)
    finally:
        hook.remove()
    return output, seen


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_is_prefilled_apart_says_what_one_batch_says(family: str) -> None:
    turn = list(tiny.FAMILIES).index(family)
    for index, (mode, size) in enumerate(product(MODES, ("one", "batch"))):
        if (mode, size) == ("lookup", "batch"):
            continue
        model = tiny.build(family, ("sdpa", "eager")[(turn + index) % 2])
        inputs = tiny.row(family, LENGTHS, 0) if size == "one" else tiny.inputs(family, LENGTHS)
        unsaid = [tiny.IMAGE, tiny.VIDEO, 57, 58, 59]
        options = MODES[mode] | {"suppress_tokens": unsaid}
        apart, alone = shapes(model, Guided(), inputs, **options)
        joint, together = shapes(model, Guided(TOGETHER), inputs, **options)
        assert apart.sequences.tolist() == joint.sequences.tolist(), (mode, size)
        for one, other in zip(apart.logits, joint.logits, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        rows = len(inputs["input_ids"]) * options.get("num_beams", 1)
        length = inputs["input_ids"].shape[1]
        assert together[0] == (2 * rows, length if mode != "lookup" else together[0][1])
        if mode in ("greedy", "beams"):
            # Beams of a sample share its text-only prompt, which runs once.
            assert alone[0][0] == len(inputs["input_ids"])
            assert alone[0][1] < length
            assert alone[1] == (rows, length)
            assert alone[2] == (2 * rows, 1)


def test_a_plugin_that_looks_at_heads_of_the_stream_sees_them_beside_its_own() -> None:
    inputs = tiny.inputs("llava", LENGTHS)
    _, seen = shapes(tiny.build("llava"), Looking(), inputs)
    assert seen[0] == (4, inputs["input_ids"].shape[1])


@pytest.mark.parametrize(("name", "runs"), [("cfg", 1), ("icd", 1), ("vcd", 2), ("damro", 2)])
def test_the_vision_tower_runs_once_more_only_for_what_is_not_known(name: str, runs: int) -> None:
    model, calls = tiny.build("llava"), 0
    if not takes_encoded_images(model):
        pytest.skip("before transformers 5.18 the prefill encodes the images of all streams")

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = model.model.vision_tower.register_forward_hook(count)
    try:
        with attach(model, make(name, "llava")):
            model.generate(**tiny.row("llava", LENGTHS, 0), max_new_tokens=2, num_beams=2)
    finally:
        hook.remove()
    assert calls == runs


def test_a_window_keeps_of_each_stream_what_one_batch_keeps() -> None:
    config = tiny.build("gemma3").config
    generator = torch.Generator().manual_seed(0)
    window = config.text_config.sliding_window
    long, short = window + 3, window - 2
    states = torch.randn(2, 1, long, 4, generator=generator)
    states[1, :, : long - short] = 0
    joint, main = (StreamCache(config, 2, 1, None) for _ in range(2))
    other = StreamCache(config, 1, 1, None)
    for index in range(len(joint.layers)):
        joint.update(states, states, index)
        main.update(states[:1], states[:1], index)
        other.update(states[1:, :, -short:], states[1:, :, -short:], index)
    main.join([(other, torch.tensor([0]))])
    for one, two in zip(joint.layers, main.layers, strict=True):
        assert torch.equal(one.keys, two.keys)
        assert torch.equal(one.values, two.values)
    assert main.get_seq_length() == joint.get_seq_length() == long


def test_appending_in_place_is_appending_and_follows_whoever_reorders() -> None:
    generator = torch.Generator().manual_seed(0)
    roomy, plain = RoomyLayer(), DynamicCache().layer_class_to_replicate()
    with torch.no_grad():
        for step in range(150):
            new = torch.randn(2, 3, 5 if step == 0 else 1, 4, generator=generator)
            for layer in (roomy, plain):
                layer.update(new, -new)
                if step in (70, 71):
                    layer.reorder_cache(torch.tensor([1, 1]))
                if step == 90:
                    layer.crop(-3)
            assert torch.equal(roomy.keys, plain.keys)
            assert torch.equal(roomy.values, plain.values)


def test_it_can_be_differentiated_through() -> None:
    layer = RoomyLayer()
    states = torch.randn(1, 1, 2, 4, requires_grad=True)
    for _ in range(3):
        keys, _ = layer.update(states, states)
    (keys**2).sum().backward()
    assert torch.allclose(states.grad, 6 * states.detach())
