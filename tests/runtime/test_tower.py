"""Edits of the vision tower against a model with that tower."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import tiny
import torch
from sites import FAMILIES, LENGTHS, close, run
from torch import Tensor

from vlmheads import Plugin, Request
from vlmheads.model.anatomy import examine
from vlmheads.model.tower import Patches, vision_blocks
from vlmheads.runtime.streams import Stream
from vlmheads.verify.probes import VisionProbe, shift


@dataclass(frozen=True, eq=False)
class Layout(Plugin):
    """Keeps where patches lie."""

    name: ClassVar[str] = "layout"
    seen: list[tuple[int, tuple[int, ...], Patches]] = field(default_factory=list)

    def on_vision(self, request: Request, block: int, hidden: Tensor) -> Tensor:
        self.seen.append((block, tuple(hidden.shape), request.patches))
        return hidden


@pytest.mark.parametrize(
    ("family", "shape", "patches"),
    [
        ("llava-gqa", (2, 5, 16), Patches(((2, 2), (2, 2)), prefix=1)),
        ("internvl", (2, 17, 16), Patches(((4, 4), (4, 4)), prefix=1)),
        ("gemma3", (2, 4, 16), Patches(((2, 2), (2, 2)))),
        ("qwen2_vl", (1, 32, 16), Patches(((4, 4), (4, 4)), merge=2)),
        ("qwen2_5_vl", (1, 32, 16), Patches()),
    ],
)
def test_each_picture_is_seen_once_and_its_patches_are_placed(
    family: str, shape: tuple[int, ...], patches: Patches
) -> None:
    probe = Layout()
    run(tiny.build(family), tiny.inputs(family, LENGTHS), probe, num_beams=2)
    assert probe.seen == [(block, shape, patches) for block in range(2)]


@pytest.mark.parametrize(
    ("family", "beams"), [*zip(FAMILIES, (1, 3, 3), strict=True), ("llava_next", 3)]
)
def test_editing_the_tower_is_a_model_with_that_tower(family: str, beams: int) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, LENGTHS)
    ours = run(model, inputs, VisionProbe(strength=0.5), num_beams=beams)

    def shifted(module: Any, args: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        states = states + shift(states, 0.5)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hooks = [
        block.register_forward_hook(shifted, prepend=True)
        for block in vision_blocks(examine(model))
    ]
    theirs = run(model, inputs, num_beams=beams)
    for hook in hooks:
        hook.remove()
    assert ours[0].tolist() == theirs[0].tolist()
    close(ours[1], theirs[1])
    # transformers keeps one of its own on some.
    assert all(len(block._forward_hooks) < 2 for block in vision_blocks(examine(model)))


@pytest.mark.parametrize("family", [*FAMILIES, "vipllava"])
def test_every_step_without_a_cache_sees_the_edited_pictures(family: str) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, LENGTHS)
    plugin = VisionProbe(strength=0.5)
    one, other = (run(model, inputs, plugin, use_cache=cached) for cached in (True, False))
    assert one[0].tolist() == other[0].tolist()
    close(one[1], other[1])


@dataclass(frozen=True, eq=False)
class Same(Plugin):
    """A stream of the same prompt and pictures, and one of negatives, kept a step."""

    name: ClassVar[str] = "same"
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (
            Stream("same"),
            Stream("negative", pixels=torch.neg),
        )

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        self.seen.append((request.streams["same"].clone(), request.streams["negative"].clone()))
        return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_see_the_pictures_unedited(family: str) -> None:
    model, row = tiny.build(family), tiny.row(family, LENGTHS, 0)
    plain, edited = Same(), Same()
    before = run(model, row, plain)
    alone = run(model, row, VisionProbe(strength=0.5))
    both = run(model, row, VisionProbe(strength=0.5), edited)
    close(both[1], alone[1], 1e-4)
    close(edited.seen[0][0], before[1][0], 1e-4)
    close(edited.seen[0][1], plain.seen[0][1], 1e-4)
