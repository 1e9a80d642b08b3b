"""The prompt without its images: embeddings deleted, positions counted anew, left padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import tiny
import torch
from torch import Tensor

from vlmheads import Plugin, Request, VlmHeadsError, attach
from vlmheads.runtime.passes import Reference
from vlmheads.runtime.prompt import Prompt


def prompt(rows: list[list[int]]) -> Prompt:
    """0 is padding, 60 an image token."""
    ids = torch.tensor(rows)
    return Prompt(ids, ids != 0, ids == tiny.IMAGE, {"token_type_ids": (ids == tiny.IMAGE).long()})


def test_image_tokens_go_and_the_text_moves_together() -> None:
    text = prompt([[0, 1, 60, 60, 2, 60, 3], [4, 60, 5, 6, 7, 8, 60]]).without_images()
    assert text.ids.tolist() == [[3, 3, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert text.mask.tolist() == [[False, False, True, True, True], [True] * 5]
    assert text.positions().tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert text.positions(first=1)[1].tolist() == [1, 2, 3, 4, 5]
    assert not text.token_types["token_type_ids"].any()
    assert not text.has_image.any()


def test_a_prompt_of_nothing_but_an_image_is_refused() -> None:
    with pytest.raises(VlmHeadsError, match="nothing but image tokens"):
        prompt([[60, 60], [60, 1]]).without_images()


def test_equal_text_prompts_are_run_once() -> None:
    distinct, which = prompt([[1, 2, 3], [0, 2, 3], [1, 2, 3]]).distinct()
    assert len(distinct.ids) == 2
    assert distinct.ids[which].tolist() == [[1, 2, 3], [0, 2, 3], [1, 2, 3]]


def test_padding_grows_on_the_left() -> None:
    longer = prompt([[1, 60, 2]]).padded(5)
    assert longer.ids.tolist() == [[2, 2, 1, 60, 2]]
    assert longer.mask.tolist() == [[False, False, True, True, True]]
    assert longer.visual.tolist() == [[False, False, False, True, False]]


@dataclass(frozen=True)
class Ask(Plugin):
    """Ask for both passes over the prompt."""

    name: ClassVar[str] = "ask"
    found: tuple[list[Reference]] = ([],)

    def on_prompt(self, request: Request) -> None:
        layers = range(request.geometry.layers)
        self.found[0].append(request.text_only_forward(heads=layers, hidden=layers))
        self.found[0].append(request.image_forward(heads=layers, hidden=layers))


def ask(family: str, inputs: dict[str, Tensor], **generate: Any) -> tuple[Reference, Reference]:
    model, found = tiny.build(family), list[Reference]()
    with attach(model, Ask((found,))):
        model.generate(**inputs, max_new_tokens=1, do_sample=False, **generate)
    return found[0], found[1]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_passes_are_those_of_the_bare_model(family: str) -> None:
    model, row = tiny.build(family), tiny.row(family, (5, 3), 1)
    keep = row["input_ids"][0] != tiny.IMAGE
    names = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
    text = {name: row[name][:, keep] for name in names if name in row}
    options: dict[str, Any] = {"output_logits": True, "return_dict_in_generate": True}
    bare = model.generate(**text, max_new_tokens=1, **options).logits[0]
    full = model.generate(**row, max_new_tokens=1, **options).logits[0]
    for beams in (1, 3):
        without, with_image = ask(family, tiny.inputs(family, (5, 3)), num_beams=beams)
        assert without.logits.shape == (2 * beams, tiny.VOCABULARY)
        for row_index in range(beams, 2 * beams):
            torch.testing.assert_close(without.logits[row_index], bare[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(with_image.logits[row_index], full[0], atol=1e-5, rtol=0)
        assert without.heads[1].shape == (2 * beams, 4, 8)
        assert with_image.hidden[3].shape == (2 * beams, 32)


def test_several_images_in_one_prompt_are_all_deleted() -> None:
    row = tiny.inputs("llava")
    ids = torch.cat([row["input_ids"], row["input_ids"]], dim=1)
    two = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    two["pixel_values"] = torch.cat([row["pixel_values"], row["pixel_values"] + 1])
    without, _ = ask("llava", two)
    text = ids[ids != tiny.IMAGE][None]
    bare = tiny.build("llava")(input_ids=text).logits[:, -1]
    torch.testing.assert_close(without.logits, bare, atol=1e-5, rtol=0)


def test_the_passes_can_only_be_asked_for_before_the_prefill() -> None:
    @dataclass(frozen=True)
    class Late(Plugin):
        name: ClassVar[str] = "late"

        def on_logits(self, request: Request, logits: Tensor) -> Tensor:
            request.text_only_forward()
            return logits

    model = tiny.build("llava")
    with attach(model, Late()), pytest.raises(RuntimeError, match="only be run from on_prompt"):
        model(**tiny.inputs("llava"))
