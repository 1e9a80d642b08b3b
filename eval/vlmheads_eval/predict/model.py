"""From images and prompts to answers of a model: plain, under plugins or under a control."""

import dataclasses
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import torch

import vlmheads
from vlmheads.entries import installed
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.model.anatomy import examine
from vlmheads.plugin import Plugin
from vlmheads.registry import resolve


class Answer(NamedTuple):
    """What a model answered.

    Args:
        text: the answer.
        tokens: generated tokens, without the end token.
        at_limit: whether the limit on new tokens ended it, rather than an end token or another
            criterion such as a time limit.
    """

    text: str
    tokens: int
    at_limit: bool


CONTROLS = ("random-heads", "text-only")


class Generator:
    """A loaded model that answers batches of images, each with a prompt.

    Args:
        captioner: the model with its processor and plugins.
        max_new_tokens: the token limit of an answer.
        text_only: omit the images, as a control.
    """

    def __init__(
        self, captioner: vlmheads.Captioner, max_new_tokens: int, *, text_only: bool = False
    ) -> None:
        self.captioner, self.max_new_tokens, self.text_only = captioner, max_new_tokens, text_only

    def __call__(self, images: Sequence[Any], prompts: Sequence[str]) -> list[Answer]:
        """Answer a batch with greedy search."""
        shown = [None] * len(images) if self.text_only else images
        inputs = self.captioner.prepare(shown, prompts)
        answers = self.captioner.generate(
            inputs, max_new_tokens=self.max_new_tokens, do_sample=False
        )
        return [Answer(one.text, one.tokens, one.at_limit) for one in answers]


def load_generator(
    model: str,
    plugins: Sequence[str],
    max_new_tokens: int,
    *,
    control: str | None = None,
    control_seed: int = 0,
    dtype: str = "auto",
    device: str | None = None,
) -> Generator:
    """Load a model with plugins, or with a control for them.

    Args:
        model: a packaged model, a folder or a hub id.
        plugins: names, with options as in "vhr:alpha=1.5".
        max_new_tokens: the token limit of an answer.
        control: "random-heads" replaces the heads that the plugins choose with random ones, as
            many per layer and with the same gain; "text-only" omits the images.
        control_seed: for the random heads; use several seeds.
        dtype: see `vlmheads.Captioner.from_pretrained`.
        device: see there.
    """
    if control not in (None, *CONTROLS):
        raise VlmHeadsError(f"control {control!r}", " or ".join(CONTROLS))
    captioner = vlmheads.Captioner.from_pretrained(model, plugins, dtype=dtype, device=device)
    if control == "random-heads":
        captioner.plugins = random_heads(captioner.model, captioner.plugins, control_seed)
    return Generator(captioner, max_new_tokens, text_only=control == "text-only")


def random_heads(model: Any, plugins: Sequence[Plugin], seed: int) -> tuple[Plugin, ...]:
    """Return the plugins with a random head map, which selects half of each layer's heads."""
    if not plugins or not all(hasattr(plugin, "head_map") for plugin in plugins):
        names = ", ".join(plugin.name for plugin in plugins) or "no plugin"
        raise VlmHeadsError(
            f"random heads for {names}",
            "plugins that choose heads by a map (option head_map), such as vhr",
        )
    geometry = examine(model).geometry
    draws = torch.Generator().manual_seed(seed)
    values = torch.rand((1, geometry.layers, geometry.heads), generator=draws)
    head_map = HeadMap(values, geometry, "random", {"seed": seed})
    options: dict[str, Any] = {"head_map": head_map}
    return tuple(dataclasses.replace(plugin, **options) for plugin in plugins)


def describe_plugins(plugins: Sequence[str]) -> list[dict[str, Any]]:
    """Return the plugins' names and options as plain values for a run's config."""
    described = [plugin.describe() for plugin in resolve(plugins)]
    return [{"name": plugin["name"], **plugin["options"]} for plugin in described]


def versions(plugins: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions that can change answers, those of packages of plugins included."""
    names = ["vlmheads", "torch", "transformers", "tokenizers", "pillow", "numpy"]
    entries = installed()
    for plugin in resolve(plugins):
        entry = entries.get(plugin.name)
        if entry is not None and entry.dist is not None:
            names.append(entry.dist.name)
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
