"""What is taken from inside of transformers and torch; tests/runtime/test_compat.py watches it.

Whether a model is inside of generate(), and with what, is told from the stacks of the threads.
"""

from __future__ import annotations

import copy
import inspect
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

# Where generate() keeps the graph that it compiles for a static cache, and what with.
COMPILED_CALL = "_compiled_call"
COMPILED = (COMPILED_CALL, "_last_compile_config")
# From transformers 5.18 on, generate() encodes the images once and hands forward the result.
ENCODED = "mm_encoder_outputs"


def is_compiled(module: nn.Module) -> bool:
    """Tell whether a module runs a graph: by `.compile()`, or by a forward that was compiled.

    The wrapper that `torch.compile(module)` returns has such a forward.
    """
    forward = vars(module).get("forward")
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return compiled or hasattr(forward, "_torchdynamo_orig_callable")


def takes_encoded_images(model: Any) -> bool:
    """Tell whether a model's forward takes encoded images; in transformers 5.17 it does not."""
    return ENCODED in inspect.signature(model.forward).parameters


def expand_images(model: Any, ids: Tensor, images: dict[str, Any], copies: int) -> None:
    """Repeat encoded images for the beams of each sample, in place, as generate() does.

    Args:
        model: the model that generates.
        ids: [N, S] token ids, each sample once.
        images: kind of image -> output of the vision encoder.
        copies: rows per sample.
    """
    model._expand_multimodal_outputs(ids, images, expand_size=copies)


def chain(images: list[dict[str, Any]]) -> dict[str, Any]:
    """Join arguments of a vision encoder, one set of images after the other."""
    return {
        name: torch.cat([part[name] for part in images]) if isinstance(value, Tensor) else value
        for name, value in images[0].items()
    }


def with_child(module: nn.Module, name: str, child: nn.Module) -> nn.Module:
    """Return a module that shares everything with `module` but one child."""
    shell = copy.copy(module)
    shell._modules = module._modules | {name: child}
    return shell


def supports_sdpa(decoder: Any) -> bool:
    """Tell whether transformers' sdpa function gives what the decoder needs: no sinks, no caps."""
    return bool(decoder._supports_sdpa)


def is_recording(cache: Cache) -> bool:
    """Tell whether a cache keeps what a window drops; it has no method for that before 5.21."""
    return any(getattr(layer, "record_past", False) for layer in cache.layers)


def generations(model: Any, thread: int) -> int:
    """Count the generate() calls on `model` that a thread is inside of.

    A hook sees forward passes, not the loop around them, and no object of transformers tells when
    that loop has ended; the stack does, without anything to clean up after an exception.

    Args:
        model: the model whose generate() is looked for.
        thread: the thread's identifier; one that has ended counts 0.
    """
    stack = _frames(sys._current_frames().get(thread))
    return sum(_generates(frame, model) for frame in stack)


def is_generating(model: Any) -> bool:
    """Tell whether any thread is inside of a generate() call on `model`."""
    stacks = list(sys._current_frames().values())
    return any(_generates(frame, model) for stack in stacks for frame in _frames(stack))


def generate_arguments(model: Any) -> dict[str, Any]:
    """Return the keyword arguments of the innermost generate() on `model` in this thread.

    The images are encoded before the first forward pass, which is not shown the pixels; they are
    still among the arguments of the call. Outside of generate() there are none.
    """
    for frame in _frames(sys._getframe()):
        if _generates(frame, model):
            return dict(frame.f_locals.get("kwargs", {}))
    return {}


def call_arguments(model: Any) -> dict[str, Any]:
    """Return the named arguments of the innermost generate() or forward() of `model` itself.

    For models that run another one inside of them, which is given neither tokens nor pixels.
    """
    for frame in _frames(sys._getframe()):
        code = frame.f_code
        if code.co_name in ("generate", "forward") and frame.f_locals.get("self") is model:
            names = code.co_varnames[1 : code.co_argcount]
            return {name: frame.f_locals[name] for name in names if name in frame.f_locals}
    return {}


def generate_settings(model: Any) -> dict[str, Any]:
    """Return guidance_scale and assistant_model of the innermost generate() in this thread.

    guidance_scale may come as an argument or in a generation config, and generate() has merged the
    two by its first forward pass.
    """
    for frame in _frames(sys._getframe()):
        if _generates(frame, model):
            config = frame.f_locals.get("generation_config")
            return {
                "guidance_scale": getattr(config, "guidance_scale", None),
                "assistant_model": frame.f_locals.get("assistant_model"),
            }
    return {}


def generate_config(model: Any) -> Any:
    """Return the generation config of the innermost generate() in this thread, or the model's."""
    for frame in _frames(sys._getframe()):
        if _generates(frame, model) and "generation_config" in frame.f_locals:
            return frame.f_locals["generation_config"] or model.generation_config
    return model.generation_config


def attention_implementation(decoder: Any) -> str:
    """Return the name of the attention function that a decoder uses; there is only a setter."""
    name: str = decoder.config._attn_implementation
    return name


def execution_device(module: Any) -> torch.device | None:
    """Return where accelerate brings a module's weights when it runs; None where it does not."""
    place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return None if place is None else torch.device(place)


def parameter_names(model: Any, names: Iterable[str]) -> dict[str, str | None]:
    """Return what from_pretrained() makes of the tensors in a checkpoint, by their names there.

    Args:
        model: the model that they are loaded into; one on the meta device will do.
        names: those of the tensors.

    Returns:
        name -> name of the parameter; None where several tensors are joined, or one is split.
    """
    transforms: list[Any] = list(get_model_conversion_mapping(model))
    renamings = [one for one in transforms if not isinstance(one, WeightConverter)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    state, found = model.state_dict(), {}
    for name in sorted(names):
        renamed, converted = rename_source_key(
            name, renamings, converters, model.base_model_prefix, state
        )
        found[name] = None if converted else renamed
    return found


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Walk a stack from its innermost frame out."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _generates(frame: FrameType, model: Any) -> bool:
    """Whether a frame is that of `model.generate`."""
    return frame.f_code.co_name == "generate" and frame.f_locals.get("self") is model


def current_thread() -> int:
    """Return the identifier of the calling thread."""
    return threading.get_ident()
