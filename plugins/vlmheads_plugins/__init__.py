"""The built-in methods, one file each; they register as third-party plugins do."""

from importlib import import_module

_HOMES = {"VHR": "vhr"}

__all__ = ["VHR"]


def __getattr__(name: str) -> object:
    """Import a plugin class from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmheads_plugins' has no attribute {name!r}")
    return getattr(import_module(f"vlmheads_plugins.{_HOMES[name]}"), name)
