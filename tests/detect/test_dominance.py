"""Text dominance against its formulas, in float64 on full attention maps."""

from __future__ import annotations

from typing import Any

import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads import VlmHeadsError
from vlmheads.detect import text_dominance


def slow_rows(model: Any, row: dict[str, Tensor], tokens: list[int]) -> list[list[Tensor]]:
    """Attention rows [H, K] that predict each token, layer by layer."""
    steps: list[list[Tensor]] = []

    def keep(layer: int, weights: Tensor) -> Tensor:
        if layer == 0:
            steps.append([])
        steps[-1].append(weights[:, -1])
        return weights

    slow.decode(model, row, slow.Edits(weights=keep), tokens=tokens)
    return steps


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_mdi_and_aei_are_those_of_the_formulas(family: str) -> None:
    model, lengths = tiny.build(family), (5, 3)
    found = text_dominance(model, tiny.inputs(family, lengths), max_new_tokens=4, do_sample=False)
    thirds = [[0], [1, 2], [3]]
    for index in range(2):
        row = tiny.row(family, lengths, index)
        steps = slow_rows(model, row, found.sequences[index, -4:].tolist())
        visual = slow.image_columns(model, row)
        sizes = [int((~visual).sum()), int(visual.sum())]
        assert found.counts[index].tolist() == sizes
        masses = [
            [
                [[float(step[layer][head][: len(visual)][side].sum()) for step in steps]
                 for head in range(4)]
                for layer in range(4)
            ]
            for side in (~visual, visual)
        ]  # fmt: skip
        text, image = torch.tensor(masses, dtype=torch.float64).mean(dim=-1)
        torch.testing.assert_close(found.image.values[index].double(), image, atol=1e-5, rtol=0)
        for third, layers in enumerate(thirds):
            a_text, a_image = float(text[layers].mean()), float(image[layers].mean())
            mdi = (a_text / sizes[0]) / (a_image / sizes[1])
            aei = (a_text / (a_text + a_image)) / (sizes[0] / sum(sizes))
            assert float(found.mdi()[index, third]) == pytest.approx(mdi, rel=1e-4)
            assert float(found.aei()[index, third]) == pytest.approx(aei, rel=1e-4)


def test_what_comes_after_the_end_of_a_row_does_not_count() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", (5, 3))
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    plain = model.generate(**inputs, **options)
    end = next(int(token) for token in plain[0, -6:-1] if token not in plain[1, -6:])
    cut = plain[0, -6:].tolist().index(end) + 1
    model.generation_config.eos_token_id = end
    try:
        found = text_dominance(model, inputs, **options)
    finally:
        model.generation_config.eos_token_id = None
    alone = text_dominance(model, tiny.row("llava", (5, 3), 0), max_new_tokens=cut, do_sample=False)
    assert found.image.provenance["tokens"] == [cut, 6]
    torch.testing.assert_close(found.image.values[0], alone.image.values[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_attention_on_the_prompt_is_at_most_one_on_every_family(family: str) -> None:
    found = text_dominance(
        tiny.build(family), tiny.inputs(family, (5, 3)), max_new_tokens=3, do_sample=False
    )
    total = found.text.values + found.image.values
    assert bool((total <= 1 + 1e-5).all())
    assert bool((found.image.values > 0).any())
    assert bool(found.mdi().isfinite().all())


def test_beams_and_prompts_without_an_image_are_refused() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    with pytest.raises(VlmHeadsError, match="num_beams=2"):
        text_dominance(model, row, num_beams=2)
    text = {name: row[name][:, -5:] for name in ("input_ids", "attention_mask")}
    with pytest.raises(VlmHeadsError, match="without any image"):
        text_dominance(model, text, max_new_tokens=2)
