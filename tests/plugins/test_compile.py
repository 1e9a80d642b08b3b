"""Plugins that edit head outputs leave the compiled decoder in one graph."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
import transformers
from active import contract_plugins, make

from vlmheads import VlmHeadsError, attach

HEAD_PLUGINS = [
    name
    for name, plugin in contract_plugins().items()
    if "on_heads" in plugin.hooks() and set(plugin.hooks()) <= {"on_prompt", "on_heads"}
]


@pytest.fixture
def model() -> Any:
    """A model of its own: compiling leaves a mark on it."""
    torch.compiler.reset()
    source = tiny.build("llava")
    model = transformers.LlavaForConditionalGeneration(source.config).eval().requires_grad_(False)
    model.load_state_dict(source.state_dict())
    model.generation_config = source.generation_config
    yield model
    torch.compiler.reset()


@pytest.mark.parametrize("name", HEAD_PLUGINS)
def test_the_decoder_compiles_into_one_graph_and_says_the_same(name: str, model: Any) -> None:
    inputs = tiny.inputs("llava", (5, 3))
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    plugin = make(name, "llava")
    plain = model.generate(**inputs, **options)
    with attach(model, plugin):
        expected = model.generate(**inputs, **options)
    with attach(model, plugin):
        # fullgraph: a graph break is an error.
        model.get_decoder().compile(backend="eager", fullgraph=True)
        found = model.generate(**inputs, **options)
    assert found.sequences.tolist() == expected.sequences.tolist()
    for one, other in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    after = model.generate(**inputs, **options)
    assert after.sequences.tolist() == plain.sequences.tolist()
    torch.testing.assert_close(after.logits[-1], plain.logits[-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name", ["head-scaler", "row-reweighter", "hidden-adder", "logits-shifter", "vhr"]
)
def test_what_generate_compiles_for_a_static_cache_follows_the_plugin(
    name: str, model: Any
) -> None:
    inputs = tiny.inputs("llava", (5, 3))
    config = transformers.CompileConfig(backend="eager", fullgraph=False, mode=None)
    config._compile_all_devices = True  # else only on an accelerator
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    options |= {"cache_implementation": "static"}
    plain = model.generate(**inputs, **options)
    with attach(model, make(name, "llava")):
        expected = model.generate(**inputs, **options)
        found = model.generate(**inputs, **options, compile_config=config)
        assert "_compiled_call" in model.__dict__, "it was not compiled"
    for one, other in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert not [name for name in model.__dict__ if "compile" in name and "_impl" not in name]
    after = model.generate(**inputs, **options, compile_config=config)
    for one, other in zip(after.logits, plain.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    with pytest.raises(VlmHeadsError, match="was compiled before attach"):
        attach(model, make(name, "llava"))
