"""Attach to a vision-language model, measure its heads and steer them inside native generate."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmheads import detect as detect
    from vlmheads.caption import Caption as Caption
    from vlmheads.caption import Captioner as Captioner
    from vlmheads.errors import VlmHeadsError as VlmHeadsError
    from vlmheads.gains.adapter import save_adapter as save_adapter
    from vlmheads.grounding.scores import Scorer as Scorer
    from vlmheads.grounding.words import Word as Word
    from vlmheads.headmap import HeadMap as HeadMap
    from vlmheads.model.families import list_families as list_families
    from vlmheads.notebook import show as show
    from vlmheads.plugin import Plugin as Plugin
    from vlmheads.registry import get_plugin as get_plugin
    from vlmheads.registry import list_plugins as list_plugins
    from vlmheads.registry import load_preset as load_preset
    from vlmheads.runtime.attachment import Attachment as Attachment
    from vlmheads.runtime.attachment import attach as attach
    from vlmheads.runtime.request import Request as Request

__version__ = version("vlmheads")

# Where each public name lives. Looked up on first use, so that importing vlmheads loads no torch.
HOMES = {
    "VlmHeadsError": "errors",
    "attach": "runtime.attachment",
    "Attachment": "runtime.attachment",
    "Plugin": "plugin",
    "list_plugins": "registry",
    "get_plugin": "registry",
    "Request": "runtime.request",
    "HeadMap": "headmap",
    "Captioner": "caption",
    "Caption": "caption",
    "list_families": "model.families",
    "load_preset": "registry",
    "save_adapter": "gains.adapter",
    "Scorer": "grounding.scores",
    "Word": "grounding.words",
    "show": "notebook",
    "detect": "detect",  # the room itself
}

__all__ = sorted(HOMES)


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in HOMES:
        raise AttributeError(f"module 'vlmheads' has no attribute {name!r}")
    module = import_module(f"vlmheads.{HOMES[name]}")
    value = module if name == HOMES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
