"""Attach to a vision-language model, measure its heads and steer them inside native generate."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmheads.errors import VlmHeadsError

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
}

__all__ = sorted(_HOMES)  # noqa: PLE0604


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmheads' has no attribute {name!r}")
    value = getattr(import_module(f"vlmheads.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
