"""AttnReal against its formula, in float64 on full attention maps."""

from __future__ import annotations

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.attnreal import AttnReal

import vlmheads
from vlmheads.model.geometry import Geometry

LAYERS = (0, 1, 2, 3)


def move_to_image(family: str, rho: float, threshold: float, split: str) -> slow.Edit:
    """The method by loops over heads and columns."""
    row = tiny.inputs(family)
    prompt = row["input_ids"].shape[1]
    image = slow.image_columns(tiny.build(family), row).nonzero().flatten().tolist()

    def edit(layer: int, weights: Tensor) -> Tensor:
        said = range(prompt, weights.shape[-1])
        edited = weights.clone()
        for before, after in zip(weights[:, -1].tolist(), edited[:, -1], strict=True):
            mean = sum(before[j] for j in said) / max(1, len(said))
            sinks = [j for j in said if before[j] > threshold * mean]
            looked = sum(before[v] for v in image)
            for j in sinks:
                after[j] = rho * before[j]
                for v in image:
                    share = 1 / len(image) if split == "even" else before[v] / looked
                    after[v] += (1 - rho) * before[j] * share
        return edited

    return edit


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    ("rho", "threshold", "split"),
    [(0.5, 1.0, "even"), (0.0, 1.0, "even"), (0.3, 0.0, "even"), (0.5, 1.0, "proportional")],
)
def test_sinks_among_what_was_said_give_to_the_image(
    family: str, rho: float, threshold: float, split: str
) -> None:
    plugin = AttnReal(rho=rho, threshold=threshold, split=split, layers=LAYERS)
    edits = slow.Edits(weights=move_to_image(family, rho, threshold, split))
    agree.assert_plugin_is(plugin, edits, family)


def test_the_published_layers_are_the_default() -> None:
    assert AttnReal().chosen_layers(Geometry("internvl", 36, 32)) == tuple(range(12, 32))


def test_the_first_two_tokens_are_those_of_the_plain_model() -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plain = agree.generate(model, row, AttnReal.neutral(), 3)[1]
    edited = agree.generate(model, row, AttnReal(rho=0.0, layers=LAYERS), 3)[1]
    assert torch.equal(edited[0], plain[0])
    # One generated token is its own mean.
    torch.testing.assert_close(edited[1], plain[1], atol=1e-6, rtol=0)
    assert not torch.allclose(edited[2], plain[2], atol=1e-6)


@pytest.mark.parametrize("split", ["even", "proportional"])
def test_rows_sum_to_one_and_the_image_gains_what_words_lose(split: str) -> None:
    row = tiny.inputs("llava-gqa")
    prompt = row["input_ids"].shape[1]
    image = slow.image_columns(tiny.build("llava-gqa"), row)
    plugin = AttnReal(rho=0.0, split=split, layers=LAYERS)
    moved = 0.0
    for _, (before, after) in agree.rows_around(plugin).items():
        change = after.weights - before.weights
        torch.testing.assert_close(change.sum(dim=-1), torch.zeros(change.shape[:-1]))
        gained = change[..., :prompt][..., image].sum(dim=-1)
        torch.testing.assert_close(gained, -change[..., prompt:].sum(dim=-1))
        moved += float(gained.sum())
    assert moved > 0.1


def test_words_keep_their_weight_where_the_image_has_left_the_window() -> None:
    gone = 0
    for (step, _), (before, after) in agree.rows_around(
        AttnReal(rho=0.0, layers=LAYERS), "gemma3", count=20
    ).items():
        torch.testing.assert_close(
            after.weights.sum(dim=-1), before.weights.sum(dim=-1), atol=1e-5, rtol=0
        )
        visible = (before.image_keys[:, None, None] & (before.scores > -torch.inf)).any()
        if step > 2 and not visible:
            assert torch.equal(after.weights, before.weights)
            gone += 1
    assert gone > 0


def test_without_an_image_nothing_happens() -> None:
    model = tiny.build("llava")
    row = {"input_ids": torch.tensor([[1, 12, 13, 14, 15]])}
    plain, found = (
        agree.generate(model, row, plugin)
        for plugin in (AttnReal.neutral(), AttnReal(rho=0.0, layers=LAYERS))
    )
    assert plain[0] == found[0]
    torch.testing.assert_close(plain[1], found[1], atol=1e-6, rtol=0)


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="attnreal: layers"):
        vlmheads.attach(tiny.build("llava"), AttnReal(layers=(4,)))
