"""The built-in methods, one file each; they register as third-party plugins do."""

from importlib.metadata import entry_points


def __getattr__(name: str) -> object:
    """Import a plugin class by name, from the module that its entry point gives."""
    for entry in entry_points(group="vlmheads.plugins"):
        if entry.module.startswith("vlmheads_plugins.") and entry.attr == name:
            return entry.load()
    raise AttributeError(f"module 'vlmheads_plugins' has no attribute {name!r}")
