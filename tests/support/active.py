"""Options under which each plugin really acts on the tiny models, and what each refuses."""

from __future__ import annotations

from functools import cache
from typing import Any

import tiny
import torch
from examples import EXAMPLES

from vlmheads.entries import installed
from vlmheads.headmap import HeadMap
from vlmheads.learned import Learned
from vlmheads.model.anatomy import examine
from vlmheads.model.tower import vision_blocks
from vlmheads.plugin import Plugin
from vlmheads.registry import get_plugin


def gain_map(family: str) -> HeadMap:
    """Factors from 0 to 2 for the heads of the tiny model of a family."""
    shape = geometry(family)
    generator = torch.Generator().manual_seed(1)
    values = 2 * torch.rand(1, shape.layers, shape.heads, generator=generator)
    return HeadMap(values, shape, "gain")


def steering(family: str) -> Learned:
    """A random direction for each layer of the tiny model of a family."""
    shape = geometry(family)
    width = tiny.build(family).get_input_embeddings().weight.shape[-1]
    generator = torch.Generator().manual_seed(2)
    values = {"directions": torch.randn(shape.layers, width, generator=generator)}
    return Learned("vti", values, shape)


def of_positions(family: str) -> Learned:
    """Random directions for the vision tower of the tiny model of a family, of five positions."""
    anatomy = examine(tiny.build(family))
    shape = (len(vision_blocks(anatomy)), POSITIONS.get(family, 5), 16)
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(10))
    return Learned("vti-visual", {"directions": values}, anatomy.geometry)


def basis(family: str) -> Learned:
    """Eight random directions for each layer of the tiny model of a family."""
    shape = geometry(family)
    width = tiny.build(family).get_input_embeddings().weight.shape[-1]
    values = torch.randn(shape.layers, width, 8, generator=torch.Generator().manual_seed(5))
    return Learned("nullu", {"basis": torch.linalg.qr(values).Q}, shape)


def risky(family: str) -> Learned:
    """Random vectors for each layer of the tiny model of a family, to be added at layer 1."""
    shape = geometry(family)
    width = tiny.build(family).get_input_embeddings().weight.shape[-1]
    vectors = torch.randn(2, shape.layers, width, generator=torch.Generator().manual_seed(7))
    thresholds, layers = torch.zeros(2, shape.layers), torch.tensor([1.0, 1.0])
    values = {"vectors": vectors, "thresholds": thresholds, "layers": layers}
    return Learned("revis", values, shape)


def cached(family: str) -> Learned:
    """Random directions of the keys and values of the tiny model of a family."""
    anatomy = examine(tiny.build(family))
    config: Any = anatomy.decoder.config
    size = (config.num_hidden_layers, config.num_key_value_heads, 8)
    generator = torch.Generator().manual_seed(8)
    names = ("image_keys", "image_values", "text_keys", "text_values")
    values = {name: torch.randn(*size, generator=generator) for name in names}
    return Learned("pti", values, anatomy.geometry)


def tables(family: str) -> Learned:
    """Random attention on generated tokens, as small as to keep the gate of AdaIAT open or not."""
    shape = geometry(family)
    generator = torch.Generator().manual_seed(3)
    real, hallucinated = torch.rand(2, shape.layers, shape.heads, generator=generator) + 0.1
    return Learned("adaiat", {"real": real, "hallucinated": hallucinated}, shape)


def vectors(family: str) -> Learned:
    """Random vectors for all heads of the tiny model of a family, six of them to be added."""
    shape = geometry(family)
    draws = torch.Generator().manual_seed(9)
    values = {
        "offsets": torch.randn(shape.layers, shape.heads, 8, generator=draws),
        "scores": torch.rand(shape.layers, shape.heads, generator=draws),
        "count": torch.tensor([6]),
        "everywhere": torch.tensor([False]),
    }
    return Learned("offsets", values, shape)


def ratios(family: str) -> Learned:
    """Random shares of attention, by which heads are ranked."""
    shape = geometry(family)
    generator = torch.Generator().manual_seed(9)
    values = torch.rand(shape.layers, shape.heads, generator=generator)
    return Learned("havae", {"nhar": values}, shape)


def pool(family: str) -> Learned:
    """Three random images."""
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randn(3, 3, 16, 16, generator=generator)
    return Learned("cicd", {"pixels": pixels}, geometry(family))


# Positions of the vision towers that have others than a CLS token and four patches.
POSITIONS = dict.fromkeys(("llava_onevision", "paligemma", "gemma3"), 4) | dict.fromkeys(
    ("idefics3", "smolvlm"), 16
)

# Where the defaults, made for large models, would find nothing to do on a tiny random one.
OPTIONS: dict[str, dict[str, Any]] = {
    "allpath": {"suppressed": ((0, 1), (2, 3)), "boosted": ((1, 1),)},
    "air": {"share": 0.5, "layers": (0, 1, 2, 3)},
    "attnreal": {"rho": 0.0, "layers": (0, 1, 2, 3)},
    "adhh": {"heads": ((0, 1), (2, 3)), "threshold": 0.1},
    "damro": {"k": 1},
    "memvr": {"threshold": 0.0, "ratio": 0.5, "first": 1, "stop": 3},
    "gains": {"head_map": gain_map},
    "icd": {"prefix": (11, 12, 13)},
    "act": {"alpha": 1.0},
    "adaiat": {"tables": tables, "layers": (0, 1, 2, 3)},
    "cicd": {"pool": pool, "tau": 0.0},
    "cmac": {"alpha": 1.0, "cutoff": 0.0, "form": "release"},
    "flb": {"gamma": 2.0, "kappa": 1.0},
    "gift": {"alpha": 1.0, "source": 0, "layers": (1, 2, 3)},
    "havae": {"ratios": ratios, "alpha": 1.0},
    "hulluedit": {"rank": 2, "prior_rank": 2, "kappa": 3.0, "layer": 2},
    "iat": {"layers": (0, 1, 2, 3)},
    "devils": {"layers": (0, 1, 2, 3)},
    "ilvad": {"alpha": 1.0, "peak": 1.0, "tokens": 4, "layers": (1, 2, 3)},
    "kvsmooth": {"window": 2, "reference": 0.5, "layers": (1, 2, 3)},
    "nullu": {"basis": basis},
    "offsets": {"learned": vectors},
    "pti": {"directions": cached},
    "resdec": {"window": 3, "pool": 16},
    "revis": {"learned": risky},
    "rudder": {"alpha": 1.0, "layer": 2},
    "sid": {"alpha": 2.0, "kept": 1},
    "vaf": {"enhance": 2.0, "layers": (0, 1, 2, 3)},
    "vga": {"beta": 1.0, "kappa": 0.3, "layers": (1, 2, 3)},
    "vti": {"directions": steering, "strength": 5.0},
    "vti-visual": {"directions": of_positions, "strength": 20.0},
    "var": {
        "tau": 1.3,
        "dimensions": (1, 2, 3),
        "rho": 0.1,
        "minimum": 0.0,
        "layers": (1, 2, 3),
    },
}

# What they keep belongs to one token per step, so that drafts are refused by name.
STEPWISE = ("ilvad", "kvsmooth", "pti", "resdec", "sid", "vga")

# (plugin, family) -> a word of the refusal.
REFUSED: dict[tuple[str, str], str] = {
    (name, family): "CLIP"
    for name in ("paint", "damro")
    for family in tiny.FAMILIES
    if family not in ("llava", "llava-gqa", "vipllava")
} | {("icd", family): "disturbed" for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")}
REFUSED |= {
    ("vti-visual", family): "vision blocks are made of"
    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "mistral3")
}
REFUSED |= {("only", "gemma3"): "pre_feedforward_layernorm"}
REFUSED |= {
    ("cicd", family): "fixed size"
    for family in (
        *("llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
        *("idefics3", "smolvlm", "mistral3"),
    )
}


@cache  # Entry points are read from disk.
def contract_plugins() -> dict[str, type[Plugin]]:
    """Every built-in plugin, and one example for each kind of hook."""
    own = {
        name: get_plugin(name)
        for name, entry in installed().items()
        if entry.module.startswith("vlmheads_plugins.")
    }
    return {plugin.name: plugin for plugin in EXAMPLES} | own


def make(name: str, family: str) -> Plugin:
    """An instance that acts on the tiny model of a family."""
    options = OPTIONS.get(name, {})
    values = {key: value(family) if callable(value) else value for key, value in options.items()}
    return contract_plugins()[name](**values)


def geometry(family: str) -> Any:
    """Layers and heads of the tiny model of a family."""
    return examine(tiny.build(family)).geometry
