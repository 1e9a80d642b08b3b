"""Wrapped, copied and changed models: plugins act on what runs, or refuse by name."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import peft
import pytest
import tiny
import torch
from examples import HeadScaler, HiddenAdder, LogitsShifter, RowReweighter
from torch import Tensor, nn

from vlmheads import Plugin, Request, VlmHeadsError, attach
from vlmheads.runtime.cache import filled_cache, with_cache

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
LORA = peft.LoraConfig(target_modules=["o_proj"], r=2, init_lora_weights=False)


@pytest.fixture
def model() -> Any:
    return copy.deepcopy(tiny.build("llava"))


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return tiny.inputs("llava")


def scores(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """Logits [T, V] of three greedy tokens."""
    found = model.generate(
        **inputs,
        max_new_tokens=3,
        min_new_tokens=3,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return torch.stack(found.logits)[:, 0]


@pytest.mark.parametrize("plugin", [HeadScaler(), RowReweighter(), HiddenAdder()], ids=str)
def test_plugins_act_on_a_model_that_peft_wraps(
    plugin: Plugin, model: Any, inputs: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, LORA)
    before = scores(wrapped, inputs)
    with attach(wrapped, plugin):
        through_wrapper = scores(wrapped, inputs)
    with attach(wrapped.get_base_model(), plugin):
        through_model = scores(wrapped, inputs)
    assert not torch.equal(through_wrapper, before)
    assert torch.equal(through_wrapper, through_model)
    assert torch.equal(scores(wrapped, inputs), before)


def test_plugins_act_on_the_module_of_a_parallel_wrapper(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    wrapped = nn.DataParallel(model)
    with attach(wrapped, HeadScaler()) as attachment:
        assert attachment.model is model
        through_wrapper = wrapped(**inputs).logits
    with attach(model, HeadScaler()):
        assert torch.equal(through_wrapper, model(**inputs).logits)


def test_data_parallel_over_several_devices_is_refused(model: Any) -> None:
    wrapped = nn.DataParallel(model)
    wrapped.device_ids = [0, 1]
    with pytest.raises(VlmHeadsError, match="DataParallel over 2 devices.*accelerate launch"):
        attach(wrapped, HeadScaler())


def test_an_adapter_that_is_added_after_attach_is_refused_by_name(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    with attach(model, HeadScaler()):
        wrapped = peft.get_peft_model(model, LORA)
        with pytest.raises(VlmHeadsError, match="output projection of layer 0.*attach again"):
            scores(wrapped, inputs)
    before = scores(wrapped, inputs)
    with attach(wrapped, HeadScaler()):
        assert not torch.equal(scores(wrapped, inputs), before)


@pytest.mark.parametrize("chosen", ["eager", "sdpa"])
def test_a_new_attention_implementation_keeps_plugins_acting_and_stays(
    chosen: str, inputs: dict[str, Tensor]
) -> None:
    start = "sdpa" if chosen == "eager" else "eager"
    model = copy.deepcopy(tiny.build("llava", attention=start))
    before = scores(model, inputs)
    with attach(model, RowReweighter()):
        expected = scores(model, inputs)
        model.set_attn_implementation(chosen)
        found = scores(model, inputs)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert not torch.allclose(found, before, atol=1e-4)
    model.set_attn_implementation(chosen)
    assert model.get_decoder().config._attn_implementation == chosen


def test_detach_leaves_the_attention_implementation_that_the_user_chose(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    attachment = attach(model, RowReweighter())
    model.set_attn_implementation("eager")
    attachment.detach()
    assert model.get_decoder().config._attn_implementation == "eager"
    attachment = attach(model, RowReweighter())
    model.set_attn_implementation("sdpa")
    scores(model, inputs)
    attachment.detach()
    assert model.get_decoder().config._attn_implementation == "sdpa"


@dataclass(frozen=True)
class Unwilling(Plugin):
    """Fail when its streams are asked for, which is when hooks are installed."""

    name: ClassVar[str] = "unwilling"

    @property
    def streams(self) -> tuple[Any, ...]:
        raise VlmHeadsError("no streams today")

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        return heads


def test_attach_is_all_or_nothing(
    model: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = scores(model, inputs)

    def broken(*args: Any) -> None:
        raise VlmHeadsError("no hooks today")

    with monkeypatch.context() as patched:
        patched.setattr("vlmheads.runtime.naming.NamedAttention.name", broken)
        with pytest.raises(VlmHeadsError, match="no hooks today"):
            attach(model, [HeadScaler(), RowReweighter()])
    assert "_vlmheads" not in vars(model)
    assert torch.equal(scores(model, inputs), plain)
    with attach(model, LogitsShifter()):
        one = scores(model, inputs)
        with monkeypatch.context() as patched:
            patched.setattr("vlmheads.runtime.naming.NamedAttention.name", broken)
            with pytest.raises(VlmHeadsError, match="no hooks today"):
                attach(model, [HeadScaler(), RowReweighter()])
        with pytest.raises(VlmHeadsError, match="no streams today"):
            attach(model, [HeadScaler(), Unwilling()])
        assert torch.equal(scores(model, inputs), one)
    assert torch.equal(scores(model, inputs), plain)


def test_detach_in_the_middle_of_a_generation_is_refused(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    attachment = attach(model, HeadScaler())
    expected = scores(model, inputs)
    found: list[str] = []

    class Streamer:
        def put(self, tokens: Tensor) -> None:
            for detach in (attachment.detach, threading.Thread(target=attachment.detach).start):
                try:
                    detach()
                except VlmHeadsError as error:
                    found.append(str(error))
                    break

        def end(self) -> None: ...

    assert torch.equal(scores(model, inputs, streamer=Streamer()), expected)
    assert "detach from a LlavaForConditionalGeneration that is generating" in found[0]
    assert attachment.attached
    attachment.detach()
    assert not attachment.attached


@pytest.mark.parametrize(
    "plugin", [HeadScaler(), RowReweighter(), HiddenAdder(), LogitsShifter()], ids=str
)
def test_a_deep_copy_of_an_attached_model_is_attached(
    plugin: Plugin, model: Any, inputs: dict[str, Tensor]
) -> None:
    plain = scores(model, inputs)
    handle = attach(model, plugin)
    acting = scores(model, inputs)
    twin, twin_handle = copy.deepcopy((model, handle))
    handle.detach()
    assert torch.equal(scores(model, inputs), plain)
    assert twin_handle.attached
    assert torch.equal(scores(twin, inputs), acting)
    twin_handle.detach()
    assert torch.equal(scores(twin, inputs), plain)


@pytest.mark.parametrize("called", [False, True], ids=["new", "called before attach"])
def test_output_hidden_states_are_the_edited_ones_whatever_came_first(
    called: bool, model: Any, inputs: dict[str, Tensor]
) -> None:
    fresh = copy.deepcopy(model)
    if called:
        fresh(**inputs, output_hidden_states=True)
    with attach(fresh, HiddenAdder()):
        states = fresh(**inputs, output_hidden_states=True).hidden_states
    layer = fresh.get_decoder().layers[1]
    kept: list[Tensor] = []
    with (
        attach(fresh, HiddenAdder()),
        layer.register_forward_hook(lambda _, args, output: kept.append(output)),
    ):
        fresh(**inputs)
    assert torch.equal(states[2], kept[0])
    assert not torch.equal(states[2], model(**inputs, output_hidden_states=True).hidden_states[2])


def test_what_generate_cannot_combine_with_plugins_is_named(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    with attach(model, HeadScaler()):
        with pytest.raises(VlmHeadsError, match=r"guidance_scale=1\.5.*plugin cfg"):
            scores(model, inputs, guidance_scale=1.5)
        with pytest.raises(VlmHeadsError, match=r"assistant_model=Llava.*prompt_lookup"):
            scores(model, inputs, assistant_model=tiny.build("llava"))
        found = model.generate(
            **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True
        )
    with attach(model, HeadScaler()):
        given = with_cache(model, {"input_ids": found.sequences}, filled_cache(found))
        with pytest.raises(VlmHeadsError, match="a cache that already holds 11 tokens"):
            model.generate(**given, max_new_tokens=2, do_sample=False)
