"""DoLa against its formulas, in float64."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.dola import DoLa

import vlmheads


def kl(one: Tensor, other: Tensor) -> float:
    return float(sum(p * (p / q).log() for p, q in zip(one, other, strict=True)))


def reference(
    family: str, layers: list[int], strength: float, cutoff: float, form: str = "paper"
) -> tuple[list[int], Tensor]:
    """DoLa of one row, with layer 0 the word embeddings: decode with the last token at hand."""
    model = tiny.build(family)
    early: dict[int, Tensor] = {}

    def keep(layer: int, hidden: Tensor) -> Tensor:
        early[layer + 1] = hidden[-1]
        return hidden

    decoder = slow.Slow(model, slow.Edits(residual=keep))
    token = int(tiny.inputs(family)["input_ids"][0, -1])
    logits = decoder.prompt(tiny.inputs(family))
    chosen: list[int] = []
    edited: list[Tensor] = []
    while True:
        early[0] = decoder.weights["embed_tokens.weight"][token]
        p = logits.softmax(-1)
        found = []
        for layer in layers:
            q = (decoder.weights["lm_head.weight"] @ early[layer]).softmax(-1)
            m = (p + q) / 2
            paper, release = kl(p, m) / 2 + kl(q, m) / 2, kl(m, p) + kl(m, q)
            found.append((paper if form == "paper" else release, q))
        q = max(found, key=lambda pair: pair[0])[1]
        values = p.log() - strength * q.log()
        values[p < cutoff * p.max()] = -torch.inf
        edited.append(slow.settled(values, logits))
        chosen.append(token := int(values.argmax()))
        if len(chosen) == 8:
            return chosen, torch.stack(edited)
        logits = decoder.token(token)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({}, [0]),
        ({"half": "upper"}, [2]),
        ({"layers": (0, 1, 2, 3), "strength": 0.7, "cutoff": 0.0}, [0, 1, 2, 3]),
        ({"layers": (1, 3), "cutoff": 0.4}, [1, 3]),
        ({"layers": (0, 1, 2, 3), "form": "release"}, [0, 1, 2, 3]),
    ],
)
def test_the_last_layer_is_contrasted_with_the_farthest(
    family: str, options: dict[str, Any], layers: list[int]
) -> None:
    given = options.get("strength", 1.0), options.get("cutoff", 0.1), options.get("form", "paper")
    expected = reference(family, layers, *given)
    found = agree.generate(tiny.build(family), tiny.inputs(family), DoLa(**options))
    agree.assert_same(expected, found)


def test_the_candidates_of_a_model_of_32_layers_are_the_papers() -> None:
    assert DoLa().chosen_layers(32, tied=False) == (0, 2, 4, 6, 8, 10, 12, 14)
    assert DoLa(half="upper").chosen_layers(32, tied=False) == (16, 18, 20, 22, 24, 26, 28, 30)


def test_embeddings_that_are_the_vocabulary_head_are_no_candidate() -> None:
    assert DoLa().chosen_layers(32, tied=True) == (2, 4, 6, 8, 10, 12, 14)
    assert DoLa().chosen_layers(4, tied=True) == (2,)


@settings(max_examples=10, deadline=None)
@given(
    strength=st.floats(0, 10),
    cutoff=st.floats(0, 1),
    layers=st.sets(st.integers(0, 3), min_size=1).map(sorted),
)
def test_the_likeliest_token_is_never_cut_off(
    strength: float, cutoff: float, layers: list[int]
) -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plugin = DoLa(strength=strength, cutoff=cutoff, layers=tuple(layers))
    _, plain = agree.generate(model, row, DoLa.neutral(), 1)
    _, logits = agree.generate(model, row, plugin, 1)
    assert not bool(logits.isnan().any())
    assert float(logits[0].max() - logits[0, plain[0].argmax()]) < 900


def test_tokens_that_another_method_left_out_stay_out() -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    with vlmheads.attach(model, ["cfg:cutoff=0.5", "dola:cutoff=0"]):
        output = model.generate(
            **row, max_new_tokens=2, output_logits=True, return_dict_in_generate=True
        )
    logits = torch.cat(output.logits)
    assert not bool(logits.isnan().any())
    assert bool((logits < logits.amax(dim=-1, keepdim=True) - 900).any())


def test_a_layer_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="layers"):
        vlmheads.attach(tiny.build("llava"), DoLa(layers=(4,)))
