"""VTI's visual half against its formulas: MLPs turned by hand, and directions piece by piece."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.vti_visual import VTIVisual

import vlmheads
from vlmheads.detect import visual_directions
from vlmheads.detect.visual import masked_copies
from vlmheads.learned import Learned
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry
from vlmheads.model.tower import vision_blocks

GEOMETRY = Geometry("llava", 4, 4)


def directions(blocks: int = 2, positions: int = 5, width: int = 16) -> Learned:
    draws = torch.Generator().manual_seed(3)
    values = {"directions": torch.randn(blocks, positions, width, generator=draws)}
    return Learned("vti-visual", values, GEOMETRY)


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize("strength", [0.9, 20.0])
def test_it_is_a_tower_whose_mlps_are_turned(family: str, strength: float) -> None:
    made = Learned("vti-visual", directions().values, examine(tiny.build(family)).geometry)
    model, row = tiny.build(family), tiny.inputs(family)
    plain = agree.generate(model, row, VTIVisual.neutral(), 3)
    found = agree.generate(model, row, VTIVisual(directions=made, strength=strength), 3)
    assert float((found[1] - plain[1]).abs().max()) > 1e-3

    def turned(block: int, output: Tensor) -> Tensor:
        result = output.double().clone()
        for picture in range(len(output)):
            for position in range(5):
                x = output[picture, position].double()
                v = made.values["directions"][block, position].double()
                u = x / (x @ x).sqrt() + 0.1 * strength * v / (v @ v).sqrt()
                result[picture, position] = (x @ x).sqrt() * u / (u @ u).sqrt()
        return result.float()

    blocks: Any = vision_blocks(examine(model))
    hooks = [
        block.mlp.register_forward_hook(lambda _, args, output, at=at: turned(at, output))
        for at, block in enumerate(blocks)
    ]
    try:
        expected = agree.generate(model, row, VTIVisual.neutral(), 3)
    finally:
        for hook in hooks:
            hook.remove()
    agree.assert_same(expected, found)


def pictures(count: int) -> list[dict[str, Tensor]]:
    return [tiny.inputs("llava", (3,), seed) for seed in range(count)]


def states(model: Any, pixels: Tensor) -> Tensor:
    """[3, 5, 16] what enters the first block and what each of the two gives."""
    output = model.model.vision_tower(pixels[None], output_hidden_states=True)
    return torch.stack(output.hidden_states)[:, 0]


def test_directions_run_through_layers_and_positions_as_released() -> None:
    model = tiny.build("llava")
    found = visual_directions(model, pictures(4), trials=3, ratio=0.5, seed=1)
    draws, samples = torch.Generator().manual_seed(1), []
    for one in pictures(4):
        pixels = one["pixel_values"][0]
        copies = masked_copies(pixels, 8, 3, 0.5, draws)
        few = torch.stack([states(model, copy) for copy in copies]).mean(dim=0)
        samples.append((few - states(model, pixels)).double().flatten().tolist())
    length, flat = 3 * 16, list[float]()
    for piece in range(5):
        part = torch.tensor([s[piece * length : (piece + 1) * length] for s in samples]).double()
        mean = part.mean(dim=0)
        component = torch.linalg.eigh((part - mean).T @ (part - mean)).eigenvectors[:, -1]
        flat += (mean + component * (component @ mean).sign()).tolist()
    expected = torch.tensor(flat).view(3, 5, 16)[1:]
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=0)


def test_copies_lose_a_share_of_their_patches_to_the_mean() -> None:
    pixels = torch.rand(3, 32, 24, generator=torch.Generator().manual_seed(0))
    copies = masked_copies(pixels, 8, 5, 0.7, torch.Generator().manual_seed(0))
    means = [float(pixels[channel].mean()) for channel in range(3)]
    gone = set()
    for copy in copies:
        lost = []
        for row in range(4):
            for column in range(3):
                place = (
                    slice(None),
                    slice(8 * row, 8 * row + 8),
                    slice(8 * column, 8 * column + 8),
                )
                if not torch.equal(copy[place], pixels[place]):
                    assert copy[place].flatten(1).unique(dim=1)[:, 0].tolist() == pytest.approx(
                        means
                    )
                    lost.append((row, column))
        assert len(lost) == 8
        gone.add(tuple(lost))
    assert len(gone) > 1


@pytest.mark.parametrize(
    ("family", "learned", "match"),
    [
        ("llava", directions(blocks=3), "directions of 3 vision blocks"),
        ("llava", directions(positions=6), "6 positions of width 16 for vision states"),
        ("llava", directions(width=8), "5 positions of width 8"),
    ],
)
def test_directions_of_another_tower_are_refused(family: str, learned: Learned, match: str) -> None:
    with (
        vlmheads.attach(tiny.build(family), VTIVisual(directions=learned)),
        pytest.raises(vlmheads.VlmHeadsError, match=match),
    ):
        tiny.build(family).generate(**tiny.inputs(family), max_new_tokens=1)


def test_missing_directions_and_other_pictures_are_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="without directions, which has"):
        vlmheads.attach(tiny.build("llava"), "vti-visual")
    with pytest.raises(vlmheads.VlmHeadsError, match="more than one picture"):
        visual_directions(tiny.build("llava_next"), [tiny.inputs("llava_next")])
    with pytest.raises(vlmheads.VlmHeadsError, match="1 pictures"):
        visual_directions(tiny.build("llava"), pictures(1), trials=1)
