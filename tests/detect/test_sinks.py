"""Visual sinks against their formulas, in float64 on full attention maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import slow
import tiny
import torch
from PIL import Image
from torch import Tensor

from vlmheads import VlmHeadsError
from vlmheads.detect import visual_sinks
from vlmheads.detect.sinks import Known, known_dimensions
from vlmheads.plotting.maps import plot_sinks

TAU = 1.6


def slow_maps(model: Any, row: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """States [S, E] that enter each layer, and attention [H, S, S] of it."""
    maps: list[Tensor] = []
    states: list[Tensor] = []

    def keep(_: int, weights: Tensor) -> Tensor:
        maps.append(weights)
        return weights

    def state(_: int, hidden: Tensor) -> Tensor:
        states.append(hidden)
        return hidden

    decoder = slow.Slow(model, slow.Edits(weights=keep, residual=state))
    decoder.prompt(row)
    embedded = decoder.weights["embed_tokens.weight"][row["input_ids"][0]]
    embedded[slow.image_columns(model, row)] = slow.image_features(model, row)
    return [embedded, *states[:-1]], maps


def slow_phi(states: list[Tensor], dimensions: list[int] | None) -> Tensor:
    found = []
    for hidden in states:
        relative = [[abs(v) / float(x.square().mean()) ** 0.5 for v in x.tolist()] for x in hidden]
        chosen = dimensions or [d for d, value in enumerate(relative[0]) if value >= TAU]
        found.append([max((values[d] for d in chosen), default=0.0) for values in relative])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("dimensions", [None, [3, 17]])
def test_phi_and_attention_on_sinks_are_those_of_the_formulas(
    family: str, dimensions: list[int] | None
) -> None:
    model, lengths = tiny.build(family), (5, 3)
    options: dict[str, Any] = {"tau": TAU, "rho": 0.6, "minimum": 0.3}
    batch = tiny.inputs(family, lengths)
    found = visual_sinks(model, batch, dimensions=dimensions, **options)
    for index in range(2):
        row = tiny.row(family, lengths, index)
        states, maps = slow_maps(model, row)
        phi, visual = slow_phi(states, dimensions), slow.image_columns(model, row)
        last = max(visual.nonzero()[:, 0].tolist())
        real = batch["attention_mask"][index].bool()
        torch.testing.assert_close(found.phi[index][:, real].double(), phi, atol=1e-4, rtol=0)
        assert not found.phi[index][:, ~real].any()
        for layer, weights in enumerate(maps):
            sinks = visual & (phi[layer] >= TAU)
            for head in range(4):
                rows = weights[head, last + 1 :]
                image = [float(r[visual].sum()) for r in rows]
                spent = [float(r[sinks].sum()) for r in rows]
                good = [a >= 0.3 and (a - b) / a >= 0.6 for a, b in zip(image, spent, strict=True)]
                expected = [sum(image) / len(rows), sum(spent) / sum(image), sum(good) / len(rows)]
                seen = [
                    float(part.values[index, layer, head])
                    for part in (found.image, found.spent, found.centric)
                ]
                assert seen == pytest.approx(expected, abs=1e-5)
    assert bool(found.visual_sinks.any())
    assert 0 < float(found.centric.mean().mean()) < 1


def test_found_dimensions_are_those_massive_at_the_first_token() -> None:
    model = tiny.build("llava")
    row = tiny.inputs("llava")
    found = visual_sinks(model, row, tau=TAU)
    states, _ = slow_maps(model, row)
    firsts = [hidden[0].abs() / hidden[0].square().mean().sqrt() for hidden in states]
    expected = sorted({d for first in firsts for d in (first >= TAU).nonzero()[:, 0].tolist()})
    assert list(found.dimensions()) == expected
    assert found.agrees is None


def test_found_dimensions_are_compared_with_those_on_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    found = visual_sinks(model, row, tau=TAU).dimensions()
    missing = next(d for d in range(32) if d not in found)
    key = ("llama", 32, 4, 4)
    table = "vlmheads.detect.sinks.SINK_DIMENSIONS"
    monkeypatch.setattr(table, {key: Known("tiny", found[:1], "here")})
    assert known_dimensions(model.config.text_config) == found[:1]
    assert visual_sinks(model, row, tau=TAU).agrees is True
    monkeypatch.setattr(table, {key: Known("tiny", (missing,), "here")})
    assert visual_sinks(model, row, tau=TAU).agrees is False


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_padded_batch_is_measured_as_its_rows_on_every_family(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3)
    together = visual_sinks(model, tiny.inputs(family, lengths), tau=TAU)
    for index in range(2):
        alone = visual_sinks(model, tiny.row(family, lengths, index), tau=TAU)
        for name in ("image", "spent"):
            one, all_ = getattr(alone, name).values[0], getattr(together, name).values[index]
            torch.testing.assert_close(all_, one, atol=1e-4, rtol=1e-4)


def test_sinks_are_drawn_over_the_picture(tmp_path: Path) -> None:
    found = visual_sinks(tiny.build("llava"), tiny.inputs("llava"), tau=TAU)
    figure = plot_sinks(found, Image.new("RGB", (40, 30), "white"), path=tmp_path / "sinks.png")
    drawn = figure.axes[0].images[1].get_array()
    assert drawn is not None
    assert drawn.shape == (2, 2)
    assert drawn.flatten().tolist() == found.visual_sinks[0].sum(dim=0)[found.visual[0]].tolist()
    assert (tmp_path / "sinks.png").stat().st_size > 1000
    with pytest.raises(VlmHeadsError, match="4 image tokens on a grid of 3 x 2"):
        plot_sinks(found, Image.new("RGB", (40, 30)), grid=(3, 2))


def test_what_cannot_be_measured_is_refused() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    with pytest.raises(VlmHeadsError, match="dimensions from 0 to 31"):
        visual_sinks(model, row, dimensions=[32])
    text = {name: row[name][:, -5:] for name in ("input_ids", "attention_mask")}
    with pytest.raises(VlmHeadsError, match="without any image"):
        visual_sinks(model, text)


def test_a_prompt_that_ends_in_its_image_is_measured_in_its_last_row() -> None:
    found = visual_sinks(tiny.build("llava"), tiny.inputs("llava", (0,)))
    assert bool((found.image.values > 0).all())
