"""Canaries for what vlmheads takes from inside of transformers and torch, one for each entry.

None of it is promised to stay. A canary that fails says what moved and which module relies on it.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import accelerate
import pytest
import tiny
import torch
from torch import nn
from transformers import (
    CompileConfig,
    DynamicCache,
    Gemma3TextConfig,
    GptOssForCausalLM,
    LlamaForCausalLM,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlmheads.model.anatomy import examine
from vlmheads.model.layout import compares_name
from vlmheads.runtime import compat


def heard(family: str = "llava") -> dict[str, Any]:
    """What can be told from inside of the first forward pass of a generation."""
    model, told = tiny.build(family), {}

    def listen(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if told:
            return
        told["forward"] = kwargs
        told["arguments"] = compat.generate_arguments(model)
        told["depth"] = compat.generations(model, compat.current_thread())
        told["generating"] = compat.is_generating(model)

    hook = model.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        model.generate(**tiny.inputs(family), max_new_tokens=1)
    finally:
        hook.remove()
    return told


def test_a_running_generate_is_found_on_the_stack() -> None:
    told = heard()
    assert (told["depth"], told["generating"]) == (1, True), (
        "generate() has moved: no frame called 'generate' whose 'self' is the model stands on the "
        "stack during a forward pass, so compat.generations cannot tell generations apart"
    )
    assert not compat.is_generating(tiny.build("llava"))


def test_the_frame_of_generate_holds_the_pixels() -> None:
    assert "pixel_values" in heard()["arguments"], (
        "the arguments of generate() have moved: its frame has no 'kwargs' with pixel_values, so "
        "compat.generate_arguments cannot give plugins the images"
    )


def test_forward_takes_encoded_images_or_pixels() -> None:
    given = heard()["forward"]
    if compat.takes_encoded_images(tiny.build("llava")):
        features = (given.get(compat.ENCODED) or {}).get("image")
        assert hasattr(features, "pooler_output"), (
            f"encoded images have moved: generate() passes no {compat.ENCODED}['image'] with a "
            "pooler_output to forward, which is how runtime.streams gives each stream its images"
        )
    else:
        assert given.get("pixel_values") is not None, (
            f"images have moved: forward takes neither {compat.ENCODED} nor pixel_values in the "
            "prefill, so runtime.streams cannot give each stream its images"
        )


def test_encoded_images_are_repeated_for_beams() -> None:
    model = tiny.build("llava")
    if not compat.takes_encoded_images(model):
        pytest.skip("this version of transformers repeats pixels, not encoded images")
    assert hasattr(model, "_expand_multimodal_outputs"), (
        "_expand_multimodal_outputs has moved: model.vision repeats encoded images for beams by it"
    )
    features = torch.arange(24.0).reshape(2, 4, 3)
    output = BaseModelOutputWithPooling(pooler_output=features)
    ids = torch.tensor([[5] + [tiny.IMAGE] * 4] * 2)
    model._expand_multimodal_outputs(ids, {"image": output}, expand_size=2)
    assert output.pooler_output[:, 0, 0].tolist() == [0, 0, 12, 12], (
        "_expand_multimodal_outputs has changed: it no longer changes the output that it is given "
        "so that the images of one sample stand next to each other, as model.vision expects"
    )


def test_a_cache_says_whether_it_records_what_a_window_drops() -> None:
    config = Gemma3TextConfig(
        num_hidden_layers=2,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    )
    cache = DynamicCache(config=config)
    before = compat.is_recording(cache)
    cache.activate_past_recording()
    assert (before, compat.is_recording(cache)) == (False, True), (
        "record_past has moved: layers of a cache no longer tell whether prompt lookup will crop "
        "them, so runtime.cache would drop what it has to put back"
    )


def test_generate_keeps_its_compiled_graph_on_the_model() -> None:
    model = copy.deepcopy(tiny.build("llava"))
    before = set(vars(model))
    model.get_compiled_call(CompileConfig(backend="eager"))
    left = set(vars(model)) - before
    assert left == set(compat.COMPILED), (
        f"the compiled graph has moved: get_compiled_call() leaves {left} on a model and not "
        f"{set(compat.COMPILED)}, so that detach would leave a graph with our hooks"
    )


def test_accelerate_says_where_it_runs_a_module() -> None:
    module = accelerate.cpu_offload(nn.Sequential(nn.Linear(2, 2)))[0]
    assert compat.execution_device(module) == torch.device("cpu"), (
        "_hf_hook.execution_device has moved: model.inputs cannot tell where a model whose weights "
        "accelerate keeps elsewhere takes its token ids"
    )
    assert compat.execution_device(nn.Linear(2, 2)) is None


def test_torch_marks_what_it_compiled() -> None:
    module = nn.Linear(2, 2)
    wrapped: Any = torch.compile(module, backend="eager")
    assert getattr(wrapped, "_orig_mod", None) is module, (
        "_orig_mod has moved: attach() cannot find the model inside of what torch.compile returned"
    )
    module.compile(backend="eager")
    assert getattr(module, "_compiled_call_impl", None) is not None, (
        "_compiled_call_impl has moved: attach() cannot tell that a module was compiled in place, "
        "and its hooks would be ignored"
    )
    plain, by_hand = nn.Linear(2, 2), nn.Linear(2, 2)
    by_hand.forward = torch.compile(by_hand.forward, backend="eager")  # type: ignore[method-assign]
    found = [compat.is_compiled(part) for part in (module, wrapped, by_hand, plain)]
    assert found == [True, True, True, False], (
        "what torch.compile leaves on a module or a function has moved: attach() cannot tell that "
        "a part of a model was compiled, and its hooks would be ignored"
    )


def test_the_config_names_the_attention_in_use() -> None:
    for attention in ("sdpa", "eager"):
        config: Any = tiny.build("llava", attention).get_decoder().config
        assert getattr(config, "_attn_implementation", None) == attention, (
            "config._attn_implementation has moved: attach cannot tell which attention to call "
            "and detach cannot put it back"
        )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_each_modeling_module_has_its_eager_attention(family: str) -> None:
    attentions = [part for part in examine(tiny.build(family)).attentions if part is not None]
    names = {type(attention).__module__ for attention in attentions}
    missing = [name for name in names if not hasattr(sys.modules[name], "eager_attention_forward")]
    assert not missing, (
        f"eager_attention_forward has moved: {missing} do not define it, and runtime.attention "
        "computes the eager rows of their models by it"
    )


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_models_with_rotations_in_space_keep_their_offsets(family: str) -> None:
    told = heard(family)
    holders = [m for m in tiny.build(family).modules() if hasattr(m, "rope_deltas")]
    assert [isinstance(m.rope_deltas, torch.Tensor) for m in holders] == [True], (
        "rope_deltas has moved: not one module keeps the offset of positions after a prefill, so "
        "runtime.passes cannot put it back and runtime.streams does not see three dimensions"
    )
    assert told["forward"]["position_ids"].ndim == 3, (
        "position_ids have changed: generate() no longer passes one row for each dimension"
    )


def test_a_copy_of_a_module_has_children_of_its_own() -> None:
    inner, other = nn.Linear(2, 2), nn.Linear(2, 3)
    whole = nn.Sequential(inner)
    shell = compat.with_child(whole, "0", other)
    assert (shell[0] is other, whole[0] is inner) == (True, True), (
        "torch has moved how a module holds its children: unembedding runs a model's forward on "
        "a copy with another body"
    )


def test_decoders_say_whether_sdpa_serves_them() -> None:
    kinds = (GptOssForCausalLM, LlamaForCausalLM)
    assert [compat.supports_sdpa(kind) for kind in kinds] == [False, True], (
        "_supports_sdpa has moved: a decoder with attention sinks would be served by sdpa, which "
        "leaves them out"
    )


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_5_vl"])
def test_attention_modules_read_the_table_of_functions(family: str) -> None:
    anatomy = examine(tiny.build(family))
    assert anatomy.geometry.bare_layers == (), (
        "attention no longer reads ALL_ATTENTION_FUNCTIONS: model.layout tells layers with heads "
        "from others by it"
    )
    assert compares_name(anatomy.decoder.modules()) is None


def test_names_in_a_checkpoint_become_those_of_the_model() -> None:
    model = tiny.build("llava")
    layer = "layers.0.self_attn.o_proj.weight"
    names = {
        f"language_model.model.{layer}": f"model.language_model.{layer}",
        f"model.language_model.{layer}": f"model.language_model.{layer}",
        "language_model.lm_head.weight": "lm_head.weight",
        "vision_tower.vision_model.pre_layrnorm.weight": "model.vision_tower.pre_layrnorm.weight",
    }
    assert set(names.values()) <= set(model.state_dict())
    assert compat.parameter_names(model, names) == names, (
        "transformers renames the tensors of a checkpoint elsewhere, so gains/bake.py would not "
        "find the projections in the files"
    )
