"""GIFT against its formulas, in float64 on full attention maps, in two passes as released."""

from __future__ import annotations

import math
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.gift import GIFT, function_words, top_half

import vlmheads
from vlmheads.model.geometry import Geometry

FAMILIES = ["llava", "llava-gqa"]


def largest(values: list[float]) -> list[int]:
    """Indices of the upper half, rounded down."""
    order = sorted(range(len(values)), key=lambda index: -values[index])
    return order[: len(values) // 2]


def gaze(family: str, source: int, content: list[int], row: dict[str, Tensor]) -> dict[int, float]:
    """Column -> d, from a pass of its own over the prompt."""
    maps: dict[int, Tensor] = {}

    def keep(layer: int, weights: Tensor) -> Tensor:
        maps.setdefault(layer, weights)
        return weights

    slow.Slow(tiny.build(family), slow.Edits(weights=keep)).prompt(row)
    image = slow.image_columns(tiny.build(family), row).nonzero()[:, 0].tolist()
    moved = [
        [[max(0.0, float(head[i, j] - head[i - 1, j])) for j in image] for i in content]
        for head in maps[source]
    ]
    kept = largest([sum(map(sum, part)) for part in moved])
    d = [
        sum(moved[h][i][j] for h in kept for i in range(len(content))) / (len(kept) * len(content))
        for j in range(len(image))
    ]
    mean = sum(d) / len(d)
    spread = math.sqrt(sum((x - mean) ** 2 for x in d) / (len(d) - 1))
    d = [min(max(x, mean - 3 * spread), mean + 3 * spread) for x in d]
    low, high = min(d), max(d)
    return {j: (x - low) / (high - low) for j, x in zip(image, d, strict=True)}


def follow(
    family: str, source: int, layers: range, alpha: float, content: list[int], question: list[int]
) -> slow.Edit:
    row = tiny.inputs(family, (8,))
    found = gaze(family, source, content, row)

    def edit(layer: int, weights: Tensor) -> Tensor:
        if layer not in layers:
            return weights
        edited = weights.clone()
        rows = [head[-1] for head in edited]
        looking = largest([sum(float(one[j]) for j in found) for one in rows])
        asking = largest([sum(float(one[j]) for j in question) for one in rows])
        before = sum(float(rows[h][j]) for h in looking for j in found)
        for h in looking:
            for j, d in found.items():
                rows[h][j] *= math.exp(alpha * d)
        ratio = sum(float(rows[h][j]) for h in looking for j in found) / before
        for h in asking:
            for j in question:
                rows[h][j] *= ratio
        for one in rows:
            one /= one.sum()
        return edited

    return edit


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"lead": 2, "tail": 2}, {"skip": True}])
def test_one_pass_gives_what_the_released_two_passes_give(
    family: str, options: dict[str, Any]
) -> None:
    row = tiny.inputs(family, (8,))
    length = row["input_ids"].shape[1]
    after = int(slow.image_columns(tiny.build(family), row).nonzero()[-1]) + 1
    lead, tail = options.get("lead", 0), options.get("tail", 0)
    question = list(range(after + lead, length - tail))
    content = [i for i in question if i > after]
    if options.get("skip"):
        skipped = row["input_ids"][0, [after + 2, after + 5]].tolist()
        options = {"skip": skipped}
        content = [i for i in content if int(row["input_ids"][0, i]) not in skipped]
        assert len(content) < len(question) - 1
    edits = slow.Edits(weights=follow(family, 1, range(2, 4), 2.0, content, question))
    plugin = GIFT(alpha=2.0, source=1, layers=(2, 3), **options)
    agree.assert_plugin_is(plugin, edits, family, row)


def test_the_published_layers_are_the_default() -> None:
    assert GIFT().chosen_layers(Geometry("llava", 32, 32)) == (11, tuple(range(12, 23)))
    for depth in range(2, 60):
        source, layers = GIFT().chosen_layers(Geometry("llava", depth, 4))
        assert source < min(layers)


def test_a_question_without_content_changes_nothing() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    plugin = GIFT(source=0, layers=(1, 2, 3), skip=tuple(range(tiny.VOCABULARY)))
    plain, found = (agree.generate(model, row, one) for one in (GIFT.neutral(), plugin))
    torch.testing.assert_close(found[1], plain[1], atol=1e-5, rtol=0)


def test_rows_before_the_last_keep_their_weights() -> None:
    plugin = GIFT(source=0, layers=(1, 2, 3))
    for (step, layer), (before, after) in agree.rows_around(plugin).items():
        if step == 0 and layer:
            assert torch.equal(before.weights[:, :, :-1], after.weights[:, :, :-1])
            assert not torch.equal(before.weights[:, :, -1], after.weights[:, :, -1])


def test_half_of_the_heads_is_rounded_down() -> None:
    values = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])[None, :, None]
    assert top_half(values)[0, :, 0].tolist() == [False, False, False, True, True]
    assert top_half(torch.ones(1, 1, 1)).tolist() == [[[True]]]


@pytest.mark.parametrize("options", [{"source": 2}, {"source": 3}, {"layers": (0, 1)}])
def test_a_question_that_is_read_too_late_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="gift: source="):
        vlmheads.attach(tiny.build("llava"), GIFT(**({"layers": (2,)} | options)))


def test_function_words_are_tokens_without_content() -> None:
    tokenizer = vlmheads.Captioner.from_pretrained("embedded", ()).processor.tokenizer
    found = function_words(tokenizer)
    ids = tokenizer("describe the image .", add_special_tokens=False)["input_ids"]
    assert [token in found for token in ids].count(False) >= 2
    (article,) = tokenizer("the", add_special_tokens=False)["input_ids"]
    assert article in found
