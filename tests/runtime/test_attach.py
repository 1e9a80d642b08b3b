"""attach() puts plugins on a model, in order, and takes them away."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import tiny
import torch
import transformers
from examples import HeadScaler, HiddenAdder, LogitsShifter, RowReweighter, TextContrast
from torch import Tensor

from vlmheads import Plugin, Request, VlmHeadsError, attach
from vlmheads.runtime.cache import filled_cache, with_cache


@dataclass(frozen=True)
class Recorder(Plugin):
    """Write down who acted."""

    name: ClassVar[str] = "recorder"
    log: tuple[list[Any]] = ([],)
    word: str = ""

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        self.log[0].append((self.word, request.step))
        return logits


@pytest.fixture
def model() -> Any:
    return tiny.build("llava")


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return tiny.inputs("llava")


def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    found: Tensor = model(**inputs).logits[:, -1]
    return found


def test_plugins_act_in_the_given_order(model: Any, inputs: dict[str, Tensor]) -> None:
    log: list[Any] = []
    with attach(model, [Recorder((log,), "a"), Recorder((log,), "b")]):
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_nested_attachments_act_outer_first_and_detach_in_any_order(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    log: list[Any] = []
    outer = attach(model, Recorder((log,), "outer"))
    inner = attach(model, Recorder((log,), "inner"))
    model(**inputs)
    outer.detach()
    assert inner.attached
    assert not outer.attached
    model(**inputs)
    inner.detach()
    model(**inputs)
    assert log == [("outer", 0), ("inner", 0), ("inner", 0)]
    assert "_vlmheads" not in model.__dict__


def test_detaching_twice_does_nothing(model: Any) -> None:
    attachment = attach(model, HeadScaler())
    other = attach(model, HiddenAdder())
    attachment.detach()
    attachment.detach()
    assert other.attached
    assert "attached" in repr(other)
    other.detach()
    assert "detached" in repr(other)


def test_plugins_of_different_kinds_together_do_what_they_do_in_sequence(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    plugins = [HeadScaler(), RowReweighter(), HiddenAdder(), LogitsShifter()]
    with attach(model, plugins):
        together = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    with attach(model, plugins[0]), attach(model, plugins[1]):  # noqa: SIM117
        with attach(model, plugins[2]), attach(model, plugins[3]):
            nested = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert together.tolist() == nested.tolist()


def test_a_contrast_sees_the_stream_without_the_main_streams_plugins(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    text = {"input_ids": inputs["input_ids"][inputs["input_ids"] != tiny.IMAGE][None]}
    bare = logits(model, text)
    with attach(model, HeadScaler()):
        scaled = logits(model, inputs)
    with attach(model, [HeadScaler(), TextContrast(strength=0.5)]):
        both = logits(model, inputs)
    torch.testing.assert_close(both, scaled + 0.5 * (scaled - bare), atol=1e-5, rtol=0)


def test_two_models_never_see_each_other(inputs: dict[str, Tensor]) -> None:
    one, other = tiny.build("llava"), tiny.build("llava-gqa")
    before = logits(other, inputs)
    with attach(one, HeadScaler()):
        assert torch.equal(logits(other, inputs), before)


def test_models_that_share_a_config_object_do_not_share_plugins(inputs: dict[str, Tensor]) -> None:
    config = tiny.build("llava").config
    twin = transformers.LlavaForConditionalGeneration(config).eval()
    before = logits(twin, inputs)
    with attach(tiny.build("llava"), RowReweighter()):
        torch.testing.assert_close(logits(twin, inputs), before, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: object(), "a transformers model"),
        (
            lambda: transformers.LlamaForCausalLM(tiny._llama()),
            "names no image token",
        ),
        (
            lambda: transformers.T5ForConditionalGeneration(
                transformers.T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, vocab_size=9)
            ),
            "t5 cannot be attached to: .*encoder-decoder",
        ),
    ],
    ids=["object", "text model", "encoder-decoder"],
)
def test_a_model_that_cannot_be_attached_to_is_refused_by_name(build: Any, message: str) -> None:
    with torch.device("meta"):
        model = build()
    with pytest.raises(VlmHeadsError, match=message):
        attach(model, "vhr")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.MllamaConfig, "Mllama cannot be attached to: .*cross-attention"),
        (transformers.Florence2Config, "Florence-2 cannot be attached to: .*encoder-decoder"),
    ],
)
def test_families_that_cannot_be_served_are_refused_by_name(config: Any, message: str) -> None:
    model = torch.nn.Linear(1, 1)
    model.config = config()
    with pytest.raises(VlmHeadsError, match=message):
        attach(model, "vhr")


def test_a_second_generation_in_another_thread_is_refused(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait(ids: Tensor, scores: Tensor) -> Tensor:
        inside.set()
        assert go_on.wait(30)
        return torch.zeros(len(ids), dtype=torch.bool)

    results: list[Tensor] = []
    with attach(model, HeadScaler()):
        expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        thread = threading.Thread(
            target=lambda: results.append(
                model.generate(
                    **inputs, max_new_tokens=3, do_sample=False, stopping_criteria=[wait]
                )
            )
        )
        thread.start()
        assert inside.wait(30)
        try:
            with pytest.raises(VlmHeadsError, match="a second generation on a Llava.*generating"):
                model.generate(**inputs, max_new_tokens=1)
            with pytest.raises(VlmHeadsError, match="attach to a Llava.* that is generating"):
                attach(model, HiddenAdder())
        finally:
            go_on.set()
            thread.join(30)
        assert results[0].tolist() == expected.tolist()
        again = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert again.tolist() == expected.tolist()


def test_a_generation_inside_of_a_generation_is_refused(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    def nest(ids: Tensor, scores: Tensor) -> Tensor:
        model.generate(**inputs, max_new_tokens=1)
        return scores

    with (
        attach(model, HeadScaler()),
        pytest.raises(VlmHeadsError, match="a second generation"),
    ):
        model.generate(**inputs, max_new_tokens=2, logits_processor=[nest])


def test_a_generation_that_failed_does_not_block_the_next(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    def fail(ids: Tensor, scores: Tensor) -> Tensor:
        raise KeyError("stop")

    with attach(model, HeadScaler()):
        with pytest.raises(KeyError):
            model.generate(**inputs, max_new_tokens=2, stopping_criteria=[fail])
        model.generate(**inputs, max_new_tokens=2)


def test_a_prompt_that_arrives_in_pieces_is_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    with attach(model, HeadScaler()), pytest.raises(VlmHeadsError, match="in pieces"):
        model.generate(**inputs, max_new_tokens=2, prefill_chunk_size=8)


def test_a_filled_cache_is_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    cache = filled_cache(model(**inputs, use_cache=True))
    with attach(model, HeadScaler()), pytest.raises(VlmHeadsError, match="from its start"):
        model(**with_cache(model, {"input_ids": torch.tensor([[4]])}, cache))


def test_a_loop_of_ones_own_works(model: Any, inputs: dict[str, Tensor]) -> None:
    with attach(model, HeadScaler()):
        expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, -3:]
        output, said = model(**inputs, use_cache=True), []
        for _ in range(3):
            said.append(output.logits[:, -1].argmax(-1, keepdim=True))
            output = model(**with_cache(model, {"input_ids": said[-1]}, filled_cache(output)))
    assert torch.cat(said, 1)[0].tolist() == expected.tolist()


def test_padding_on_the_right_and_embeddings_are_refused(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    mask = inputs["attention_mask"].clone()
    mask[:, -1] = 0
    with attach(model, HeadScaler()):
        with pytest.raises(VlmHeadsError, match="padded on the right"):
            model(**(inputs | {"attention_mask": mask}))
        with pytest.raises(VlmHeadsError, match="inputs_embeds"):
            model.generate(inputs_embeds=torch.zeros(1, 4, 32), max_new_tokens=1)


def test_one_object_twice_and_two_claims_on_one_site_are_refused(model: Any) -> None:
    class Claiming(HeadScaler):
        claims: ClassVar[tuple[str, ...]] = ("contrast",)

    scaler = HeadScaler()
    with pytest.raises(VlmHeadsError, match="attached twice"):
        attach(model, [scaler, scaler])
    with attach(model, Claiming()), pytest.raises(VlmHeadsError, match="both claim .*'contrast'"):
        attach(model, Claiming(gain=2.0))
    assert "_vlmheads" not in model.__dict__


def test_a_model_that_was_compiled_before_is_refused(inputs: dict[str, Tensor]) -> None:
    model = transformers.LlavaForConditionalGeneration(tiny.build("llava").config)
    model.get_decoder().compile(backend="eager")
    with pytest.raises(VlmHeadsError, match="was compiled before attach"):
        attach(model, HeadScaler())


@pytest.mark.parametrize("part", ["", "model", "model.language_model", "model.language_model.norm"])
def test_a_part_whose_graph_would_not_see_the_plugins_is_refused(part: str) -> None:
    def fresh() -> Any:
        return transformers.LlavaForConditionalGeneration(tiny.build("llava").config)

    model = fresh()
    inner = model.get_submodule(part)
    inner.forward = torch.compile(inner.forward, backend="eager")
    with pytest.raises(VlmHeadsError, match=f"^{part or 'Llava.*'} was compiled before attach"):
        attach(model, HeadScaler())
    if part:
        model = fresh()
        model.set_submodule(part, torch.compile(model.get_submodule(part), backend="eager"))
        with pytest.raises(VlmHeadsError, match=f"^{part} was compiled before attach"):
            attach(model, HeadScaler())


def test_a_model_compiled_while_attached_follows_the_plugin_and_then_forgets_it(
    inputs: dict[str, Tensor],
) -> None:
    torch.compiler.reset()
    config = tiny.build("llava").config
    model = transformers.LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    before = logits(model, inputs)
    with attach(model, HeadScaler()):
        expected = logits(model, inputs)
    with attach(model, HeadScaler()):
        model.get_decoder().compile(backend="eager", fullgraph=True)
        torch.testing.assert_close(logits(model, inputs), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(model, inputs), before, atol=1e-5, rtol=0)
    torch.compiler.reset()


def test_a_torch_compile_wrapper_is_attached_through(inputs: dict[str, Tensor]) -> None:
    model = tiny.build("llava")
    wrapped = torch.compile(model, backend="eager")
    with attach(wrapped, HeadScaler()) as attachment:
        assert attachment.model is model


def test_flash_attention_is_served_by_sdpa_and_the_log_says_so(
    model: Any, inputs: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    config = model.get_decoder().config
    with attach(model, RowReweighter()):
        expected = logits(model, inputs)
    config._attn_implementation_internal = "flex_attention"
    try:
        with caplog.at_level("WARNING", "vlmheads"):
            attachment = attach(model, RowReweighter())
        assert torch.equal(logits(model, inputs), expected)
        attachment.detach()
        assert config._attn_implementation == "flex_attention"
    finally:
        config._attn_implementation_internal = "sdpa"
    assert "served by sdpa" in caplog.text
