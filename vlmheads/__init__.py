"""Attach to a vision-language model, measure its heads and steer them inside native generate."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmheads.adapter import save_adapter as save_adapter
    from vlmheads.adapters import list_families as list_families
    from vlmheads.attachment import Attachment as Attachment
    from vlmheads.attachment import attach as attach
    from vlmheads.caption import Caption as Caption
    from vlmheads.caption import Captioner as Captioner
    from vlmheads.errors import VlmHeadsError as VlmHeadsError
    from vlmheads.headmap import HeadMap as HeadMap
    from vlmheads.plugin import Plugin as Plugin
    from vlmheads.presets import load_preset as load_preset
    from vlmheads.registry import get_plugin as get_plugin
    from vlmheads.registry import list_plugins as list_plugins
    from vlmheads.request import Request as Request
    from vlmheads.words import Word as Word

__version__ = version("vlmheads")

# Where each public name lives. Looked up on first use, so that importing vlmheads loads no torch.
_HOMES = {
    "VlmHeadsError": "errors",
    "attach": "attachment",
    "Attachment": "attachment",
    "Plugin": "plugin",
    "list_plugins": "registry",
    "get_plugin": "registry",
    "Request": "request",
    "HeadMap": "headmap",
    "Captioner": "caption",
    "Caption": "caption",
    "list_families": "adapters",
    "load_preset": "presets",
    "save_adapter": "adapter",
    "Word": "words",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmheads' has no attribute {name!r}")
    value = getattr(import_module(f"vlmheads.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
