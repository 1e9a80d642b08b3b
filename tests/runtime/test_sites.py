"""What holds at every site: padded batches, beams, backends, and probes that do nothing."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from sites import FAMILIES, LENGTHS, close, run, same

from vlmheads.verify.probes import (
    KINDS,
    AheadProbe,
    CacheProbe,
    HiddenProbe,
    HidingProbe,
    RowProbe,
    VisionProbe,
)

NEW = {
    "attention outputs": lambda: HiddenProbe(strength=0.5, site="attention"),
    "cache": lambda: CacheProbe(strength=0.5),
    "vision tower": lambda: VisionProbe(strength=0.5),
    "hidden keys": lambda: HidingProbe(strength=0.5),
    "tokens ahead": lambda: AheadProbe(recorder=RowProbe(by_hand=True)),
}


@pytest.mark.parametrize(("kind", "family"), [*zip(NEW, FAMILIES * 2, strict=False)])
def test_a_padded_batch_gives_each_row_what_it_gets_alone(kind: str, family: str) -> None:
    model = tiny.build(family)
    together = run(model, tiny.inputs(family, LENGTHS), NEW[kind]())
    beams = run(model, tiny.inputs(family, LENGTHS), NEW[kind](), num_beams=3)[0]
    for index in range(len(LENGTHS)):
        row = tiny.row(family, LENGTHS, index)
        alone = run(model, row, NEW[kind]())
        close(together[1][:, index], alone[1][:, 0], 1e-4)
        assert together[0][index].tolist() == alone[0][0].tolist()
        if index:
            continue
        assert beams[index].tolist() == run(model, row, NEW[kind](), num_beams=3)[0][0].tolist()


@pytest.mark.parametrize("kind", ["attention outputs", "cache", "vision tower", "hidden keys"])
def test_sdpa_and_eager_agree_and_it_acts(kind: str) -> None:
    made = []
    for backend in ("sdpa", "eager"):
        model = tiny.build("llava-gqa", backend)
        row = tiny.row("llava-gqa", LENGTHS, 0)
        before = run(model, row)
        made.append(run(model, row, NEW[kind]()))
        assert not torch.equal(made[-1][1], before[1])
        assert same(run(model, row), before)
    close(made[0][1], made[1][1], 1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"do_sample": True},
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static"},
        {"use_cache": False},
    ],
    ids=["greedy", "beams", "sampling", "lookup", "static", "no cache"],
)
@pytest.mark.parametrize("kind", ["cache", "vision tower"])
def test_neutral_changes_no_bit(kind: str, options: dict[str, Any]) -> None:
    model = tiny.build("llava-gqa")
    row = tiny.row("llava-gqa", LENGTHS, 0)
    assert same(run(model, row, KINDS[kind](0.0), **options), run(model, row, **options))
