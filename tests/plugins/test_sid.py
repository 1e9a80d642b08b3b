"""SID against its formulas, in float64 with two streams by hand."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import streams
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.sid import LEAST, SID

import vlmheads
from vlmheads.runtime.request import Request


def with_least(family: str, kept: int, first: int, choices: list[list[int]]) -> Any:
    """Begin a stream whose layers after `first` see the image tokens with the least attention."""
    model, row = tiny.build(family), tiny.inputs(family)
    image = slow.image_columns(model, row).nonzero()[:, 0].tolist()

    def scores(layer: int, scores: Tensor) -> Tensor:
        if layer <= first:
            return scores
        scores = scores.clone()
        for j in image:
            if j not in choices[-1]:
                scores[:, :, j] = -torch.inf
        return scores

    def weights(layer: int, weights: Tensor) -> Tensor:
        if layer == first:
            given = {j: sum(float(head[-1, j]) for head in weights) for j in image}
            choices.append(sorted(sorted(image, key=lambda j: given[j])[:kept]))
        return weights

    def begin(side: slow.Slow) -> Tensor:
        side.edits = slow.Edits(scores=scores, weights=weights)
        return side.prompt(row)

    return begin


@pytest.mark.parametrize(
    ("family", "kept", "layer", "options"),
    [
        ("llava", 1, 1, {}),
        ("llava", 2, 2, {"alpha": 2.0, "cutoff": 0.3}),
        ("llava-gqa", 1, 0, {"alpha": 1.0, "cutoff": 0.0}),
        ("llava-gqa", 3, 1, {"alpha": 2.0}),
    ],
)
def test_the_next_token_is_contrasted_with_the_least_attended(
    family: str, kept: int, layer: int, options: dict[str, Any]
) -> None:
    values, choices = {"alpha": 0.5, "cutoff": 0.1} | options, list[list[int]]()

    def combine(_: int, one: Tensor, other: Tensor) -> Tensor:
        edited = (1 + values["alpha"]) * one - values["alpha"] * other
        return streams.cut(edited, one, values["cutoff"])

    expected = streams.decode(family, combine, begin=with_least(family, kept, layer, choices))
    assert len(set(map(tuple, choices))) > 1
    plugin = SID(kept=kept, layer=None if layer == 1 else layer, **options)
    streams.assert_plugin_is(plugin, family, expected)


def test_a_stream_that_keeps_every_token_says_what_the_model_says() -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plain = agree.generate(model, row, SID.neutral())
    found = agree.generate(model, row, SID(kept=1000, alpha=5.0, cutoff=0.0))
    assert plain[0] == found[0]
    torch.testing.assert_close(found[1], plain[1], atol=1e-4, rtol=0)


def test_by_default_as_large_a_share_is_kept_as_the_release_keeps_of_llava() -> None:
    visual = torch.ones(4, 2880, dtype=torch.bool)
    for row, tokens in enumerate((576, 2880, 64, 4)):
        visual[row, tokens:] = False
    assert SID()._count(visual)[:, 0].tolist() == [50, 250, 6, 1]
    assert SID(kept=100)._count(visual)[:, 0].tolist() == [100, 100, 64, 4]


def test_the_choice_is_each_rows_own_in_a_padded_batch() -> None:
    hidden: list[Tensor] = []

    class Watched(SID):
        def on_logits(self, request: Request, logits: Tensor) -> Tensor:
            hidden.append(request.scratch(self)["hidden"])
            return super().on_logits(request, logits)

    model = tiny.build("llava-gqa")
    with vlmheads.attach(model, Watched(kept=1)):
        model.generate(**tiny.inputs("llava-gqa", (3, 7)), max_new_tokens=4, do_sample=False)
    image = tiny.inputs("llava-gqa", (3, 7))["input_ids"] == tiny.IMAGE
    assert all(bool((one <= image).all()) for one in hidden)
    assert all((image.sum(dim=1) - one.sum(dim=1)).tolist() == [1, 1] for one in hidden)
    assert any(not torch.equal(one[0, -11:-7], one[1, -11:-7]) for one in hidden)


@pytest.mark.parametrize(
    ("options", "match"), [({"layer": 3}, "after it"), ({"layer": 4}, "names layers")]
)
def test_a_layer_that_cannot_choose_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), SID(**options))


def test_generation_without_a_cache_is_refused() -> None:
    model = tiny.build("llava")
    assert LEAST in {stream.name for stream in SID().streams}
    with (
        vlmheads.attach(model, SID()),
        pytest.raises(vlmheads.VlmHeadsError, match="without a cache"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=4, use_cache=False)
