"""Offsets against their formula: vectors added to head outputs by hand, and to biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
import transformers
from torch import Tensor
from vlmheads_plugins.offsets import Offsets

import vlmheads
from vlmheads.gains.bake import bake
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 4, 4)


def learned(count: int = 5, everywhere: bool = True, size: int = 8, **changes: Any) -> Learned:
    draws = torch.Generator().manual_seed(6)
    values = {
        "offsets": torch.randn(4, 4, size, generator=draws),
        "scores": torch.rand(4, 4, generator=draws),
        "count": torch.tensor([count]),
        "everywhere": torch.tensor([everywhere]),
    }
    return Learned("offsets", values | changes, changes.pop("geometry", GEOMETRY))


def by_hand(found: Learned, count: int, strength: float, everywhere: bool) -> slow.Edits:
    """Add the vectors of the heads with the highest scores, one head and one row at a time."""
    ranked = sorted(
        ((layer, head) for layer in range(4) for head in range(4)),
        key=lambda at: -float(found.values["scores"][at]),
    )

    def add(layer: int, heads: Tensor) -> Tensor:
        heads = heads.clone()
        for row in range(len(heads)):
            for head in range(4):
                if (layer, head) in ranked[:count] and (everywhere or row == len(heads) - 1):
                    heads[row, head] += strength * found.values["offsets"][layer, head].double()
        return heads

    return slow.Edits(heads=add)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_the_heads_with_the_highest_scores_get_their_vectors(family: str, everywhere: bool) -> None:
    made = learned(everywhere=everywhere)
    agree.assert_plugin_is(Offsets(learned=made), by_hand(made, 5, 1.0, everywhere), family)


def test_a_head_without_a_vector_is_not_counted() -> None:
    made = learned()
    best = divmod(int(made.values["scores"].argmax()), 4)
    offsets, scores = made.values["offsets"].clone(), made.values["scores"].clone()
    offsets[best] = 0
    bare = learned(offsets=offsets)
    scores[best] = 0
    last = learned(offsets=offsets, scores=scores)
    agree.assert_plugin_is(Offsets(learned=bare), by_hand(last, 5, 1.0, True), "llava")


def test_options_go_before_what_was_learned() -> None:
    made = learned(everywhere=True)
    plugin = Offsets(learned=made, strength=0.5, count=2, positions="last")
    agree.assert_plugin_is(plugin, by_hand(made, 2, 0.5, False), "llava")


@pytest.mark.parametrize(
    ("plugin", "match"),
    [
        (Offsets(), "offsets without learned, which has to be learned"),
        (Offsets(learned=learned(), count=17), "17 heads, of which 16 have an offset"),
        (
            Offsets(learned=learned(offsets=torch.full((4, 4, 8), torch.nan))),
            "offsets that are not",
        ),
        (Offsets(learned=learned(scores=torch.full((4, 4), torch.nan))), "scores that are"),
        (Offsets(learned=learned(offsets=torch.zeros(4, 4, 8))), "5 heads, of which 0"),
    ],
)
def test_what_cannot_be_added_is_refused(plugin: Offsets, match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), plugin)


def test_vectors_for_heads_of_another_size_are_refused() -> None:
    model = tiny.build("llava")
    with (
        vlmheads.attach(model, Offsets(learned=learned(size=7))),
        pytest.raises(vlmheads.VlmHeadsError, match="heads of size 7; expected 8"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=1)


def biased(folder: Path) -> Any:
    """A model whose output projections have a bias, saved."""
    config = tiny.build("llava").config.to_dict()
    config["text_config"]["attention_bias"] = True
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**config)).eval()
    draws = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.data = 0.15 * torch.randn(parameter.shape, generator=draws)
    model.save_pretrained(folder)
    return model.requires_grad_(False)


def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    found: Tensor = model(**inputs, use_cache=False).logits
    return found


def test_a_bias_holds_offsets_of_all_positions_and_gains_before_them(tmp_path: Path) -> None:
    model, inputs = biased(tmp_path / "before"), tiny.inputs("llava", (5, 3))
    draws = torch.Generator().manual_seed(8)
    gains = vlmheads.HeadMap(0.5 + torch.rand(1, 4, 4, generator=draws), GEOMETRY, "gain")
    first, second = Offsets(learned=learned()), Offsets(learned=learned(), strength=0.3, count=9)
    scaled = vlmheads.get_plugin("gains").from_dict({"head_map": gains})
    plugins = [first, scaled, second]
    done = bake(str(tmp_path / "before"), tmp_path / "after", plugins)
    assert not done.note
    assert any(name.endswith("o_proj.bias") for name in done.changed)
    baked = type(model).from_pretrained(tmp_path / "after").eval()
    plain = logits(model, inputs)
    with vlmheads.attach(model, plugins):
        wanted = logits(model, inputs)
    assert float((wanted - plain).abs().max()) > 1e-2
    torch.testing.assert_close(logits(baked, inputs), wanted, atol=1e-5, rtol=0)


def test_a_checkpoint_says_that_it_adds_them_to_the_prompt_too(tmp_path: Path) -> None:
    biased(tmp_path / "before")
    plugin = Offsets(learned=learned(everywhere=False))
    assert (
        "folded into every position"
        in bake(str(tmp_path / "before"), tmp_path / "after", [plugin]).note
    )


def test_a_projection_without_a_bias_cannot_hold_them(tmp_path: Path) -> None:
    tiny.build("llava").save_pretrained(tmp_path / "before")
    with pytest.raises(vlmheads.VlmHeadsError, match="output projection has no bias"):
        bake(str(tmp_path / "before"), tmp_path / "after", [Offsets(learned=learned())])
    assert not (tmp_path / "after").exists()
