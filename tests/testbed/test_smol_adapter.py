from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from vlmheads_testbed.measure import answers
from vlmheads_testbed.scenes import scene
from vlmheads_testbed.smol import adapter as adapters
from vlmheads_testbed.smol.adapter import (
    Adapter,
    apply_adapter,
    load_adapter,
    make_adapter,
    save_adapter,
    values_of,
)
from vlmheads_testbed.smol.assembly import assemble
from vlmheads_testbed.smol.base import Base
from vlmheads_testbed.smol.lora import Rank, add_low_rank
from vlmheads_testbed.smol.network import build_llava
from vlmheads_testbed.smol.processing import CHAT_TEMPLATE, build_processor

from vlmheads.errors import VlmHeadsError

Make = Callable[[], Any]


@pytest.fixture
def adapted(chat_tokenizer: Any, tiny_decoder: Make, tiny_tower: Make) -> tuple[Any, Adapter]:
    """A tiny model with updates of random values, and the adapter made of them."""
    tower = tiny_tower()
    model = build_llava(tiny_decoder(), tower, chat_tokenizer)
    updates = add_low_rank(model.model.language_model, Rank(2, 0.5), 0)
    random = torch.Generator().manual_seed(9)
    for update in updates.values():
        update.up.data.normal_(generator=random)
    model.model.multi_modal_projector.requires_grad_(True)
    values = {
        name: parameter.detach().half().float()  # what a file of halves can hold
        for name, parameter in model.named_parameters()
        if name.endswith((".up", ".down")) or "projector" in name
    }
    for name, parameter in model.named_parameters():
        if name in values:
            parameter.data = values[name]
    for parameter in tower.parameters():
        parameter.data = parameter.data.half().float()
    return model, make_adapter(values, tower, 0.5, {"steps": 7})


def inputs(tokenizer: Any) -> Any:
    return build_processor(tokenizer)(
        images=scene("test", 0, 0).image, text="<image>\nThere is", return_tensors="pt"
    )


def test_an_exported_and_merged_adapter_does_what_the_trained_model_did(
    adapted: tuple[Any, Adapter],
    chat_tokenizer: Any,
    tiny_decoder: Make,
    tiny_tower: Make,
    tmp_path: Path,
) -> None:
    model, adapter = adapted
    loaded = load_adapter(save_adapter(adapter, tmp_path / "adapter.safetensors"))
    fresh_tower = tiny_tower()
    for parameter in fresh_tower.parameters():
        parameter.data.zero_()
    fresh = build_llava(tiny_decoder(), fresh_tower, chat_tokenizer)
    plain = fresh(**inputs(chat_tokenizer)).logits
    apply_adapter(loaded, fresh)
    expected = model(**inputs(chat_tokenizer)).logits
    found = fresh(**inputs(chat_tokenizer)).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_an_adapter_comes_back_as_it_was_saved(
    adapted: tuple[Any, Adapter], tiny_tower: Make, tmp_path: Path
) -> None:
    saved = adapted[1]
    loaded = load_adapter(save_adapter(saved, tmp_path / "adapter.safetensors"))
    assert (loaded.scale, loaded.notes) == (0.5, {"steps": 7})
    assert loaded.updates.keys() == saved.updates.keys()
    assert all(torch.equal(loaded.projector[n], v) for n, v in saved.projector.items())
    assert all(torch.equal(loaded.vision[n], v) for n, v in saved.vision.items())
    again = make_adapter(values_of(loaded), tiny_tower(), 0.5, loaded.notes)
    assert again.updates.keys() == saved.updates.keys()
    assert again.projector.keys() == saved.projector.keys()


def test_the_file_holds_halves(adapted: tuple[Any, Adapter], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = save_adapter(adapted[1], tmp_path / "adapter.safetensors")
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}


def test_an_adapter_that_is_too_large_is_not_written(
    adapted: tuple[Any, Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "LIMIT", 1000)
    with pytest.raises(VlmHeadsError, match=r"takes \d+ bytes; expected at most 1000"):
        save_adapter(adapted[1], tmp_path / "adapter.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_values_beyond_half_precision_are_refused(
    adapted: tuple[Any, Adapter], tmp_path: Path
) -> None:
    large = {name: value * 1e9 for name, value in adapted[1].projector.items()}
    with pytest.raises(VlmHeadsError, match="beyond float16"):
        save_adapter(replace(adapted[1], projector=large), tmp_path / "adapter.safetensors")


def test_a_file_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(VlmHeadsError, match="cannot be read"):
        load_adapter(path)


def test_weights_of_another_format_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "adapter.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"format": "other"})
    with pytest.raises(VlmHeadsError, match="format 'other'"):
        load_adapter(path)


def test_an_adapter_of_another_base_is_refused(
    adapted: tuple[Any, Adapter], chat_tokenizer: Any, tiny_decoder: Make, tiny_tower: Make
) -> None:
    model = build_llava(tiny_decoder(), tiny_tower(), chat_tokenizer)
    name, (up, down) = next(iter(adapted[1].updates.items()))
    with pytest.raises(VlmHeadsError, match=f"{name} of the base model"):
        apply_adapter(replace(adapted[1], updates={name: (up[1:], down)}), model)


def test_the_assembled_folder_is_all_that_from_pretrained_needs(
    adapted: tuple[Any, Adapter], chat_tokenizer: Any, tiny_decoder: Make, tmp_path: Path
) -> None:
    from vlmheads.model.loading import load_model

    tiny_decoder().save_pretrained(tmp_path / "base")
    bare = type(chat_tokenizer)(tokenizer_object=chat_tokenizer.backend_tokenizer.from_str(
        chat_tokenizer.backend_tokenizer.to_str()), bos_token="<|im_start|>",
        eos_token="<|im_end|>")  # fmt: skip
    bare.save_pretrained(tmp_path / "base")
    path = save_adapter(adapted[1], tmp_path / "adapter.safetensors")
    (tmp_path / "smol").mkdir()
    assemble(Base(tmp_path / "base", "here"), path, tmp_path / "smol")
    model, processor = load_model(str(tmp_path / "smol"))
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert processor.chat_template == CHAT_TEMPLATE
    found = model(**inputs(chat_tokenizer)).logits
    expected = adapted[0](**inputs(chat_tokenizer)).logits
    assert torch.allclose(found, expected, atol=0.05)  # merged weights are kept in halves
    model.generation_config.max_new_tokens = 3
    assert len(answers(model, processor, [scene("test", 0, 0)] * 2, ["Hello", "Hello you"])) == 2
