"""Where a decoder layer keeps its attention, its output projection and its MLP, by structure."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

from torch import nn

from vlmheads.errors import VlmHeadsError

_ATTENTIONS = ("self_attn", "mixer")
_PROJECTIONS = ("o_proj", "out_proj", "dense")
_MLPS = ("mlp", "feed_forward")
# Layers that are an MLP, or attention, or something else, each alone.
_MLP_BLOCKS = ("mlp", "moe")
# What decides which function transformers attends with; a layer that does not read it has no heads.
_INTERFACE = "ALL_ATTENTION_FUNCTIONS"


def text_decoder(model: nn.Module) -> nn.Module:
    """Return the module that holds the layers of the text decoder.

    Raises:
        VlmHeadsError: the model tells of none.
    """
    if not hasattr(model, "get_decoder"):
        raise VlmHeadsError(f"{type(model).__name__} has no get_decoder()", "a generating model")
    decoder: nn.Module = model.get_decoder()  # type: ignore[operator]
    # Models that hold a whole language model inside, with a head of its own.
    while not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        inside = next(
            (
                part
                for name in ("model", "decoder")
                if isinstance(part := getattr(decoder, name, None), nn.Module)
            ),
            None,
        )
        if inside is None:
            return decoder
        decoder = inside
    return decoder


def attention_of(layer: nn.Module) -> nn.Module | None:
    """Return a layer's attention over all tokens; None where it mixes tokens another way."""
    for name in _ATTENTIONS:
        attention = getattr(layer, name, None)
        if isinstance(attention, nn.Module):
            return attention if _attends(attention) else None
    return None


def projection_of(attention: nn.Module | None) -> nn.Module | None:
    """Return the module that mixes the heads of an attention module."""
    for name in _PROJECTIONS:
        projection = getattr(attention, name, None)
        sized = hasattr(attention, "head_dim") or hasattr(attention, "v_head_dim")
        if isinstance(projection, nn.Module) and sized:
            return projection
    return None


def mlp_of(layer: nn.Module) -> nn.Module | None:
    """Return a layer's MLP or mixture of experts; None where it has none."""
    if getattr(layer, "block_type", None) in _MLP_BLOCKS and hasattr(layer, "mixer"):
        return layer.mixer  # type: ignore[return-value]
    return next((mlp for name in _MLPS if (mlp := getattr(layer, name, None)) is not None), None)


def head_size(attention: nn.Module | None) -> int:
    """Return D, the size of a head's output: that of its values, where they differ from queries."""
    size: int = getattr(attention, "v_head_dim", None) or attention.head_dim  # type: ignore[union-attr, assignment]
    return size


def width_of(projection: nn.Module) -> int:
    """Return the width of what an output projection is given: all heads of its layer."""
    inner = projection if hasattr(projection, "in_features") else projection.linear
    width: int = inner.in_features  # type: ignore[union-attr, assignment]
    return width


def compares_name(modules: Iterable[nn.Module]) -> str | None:
    """Return a class, if any, that acts by the name of the attention implementation.

    Under another name an attention module attends another way: sparse attention becomes dense.
    """
    for kind in {type(module) for module in modules}:
        for code in _codes(kind):
            named = {"sdpa", "eager"} & set(_constants(code))
            if named and "_attn_implementation" in code.co_names:
                return kind.__name__
    return None


def picks_keys(layers: Iterable[nn.Module]) -> bool:
    """Whether attention is sparse: an indexer picks the keys, or blocks of them, of each row."""
    return any(hasattr(attention_of(layer), "indexer") for layer in layers)


def _attends(attention: nn.Module) -> bool:
    """Whether a module calls transformers' attention functions."""
    return any(_INTERFACE in code.co_names for code in _codes(type(attention)))


def _codes(kind: type[Any]) -> Iterator[CodeType]:
    """Yield the code of the methods that a class and its bases in the model's file define."""
    for base in kind.__mro__:
        if base is nn.Module:
            return
        if ".models." not in base.__module__ and base is not kind:
            continue
        for method in vars(base).values():
            function = inspect.unwrap(method) if callable(method) else None
            if inspect.isfunction(function):
                yield function.__code__


def _constants(code: CodeType) -> Iterator[object]:
    """Yield the constants of a function, those inside of tuples included."""
    for value in code.co_consts:
        yield from value if isinstance(value, (tuple, frozenset)) else (value,)
