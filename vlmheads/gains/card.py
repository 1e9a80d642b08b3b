"""What a baked checkpoint says about itself: a section of its model card, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlmheads.plugin import Plugin

CARD, RECORD = "README.md", "vlmheads.json"
_PACKAGES = ("vlmheads", "transformers", "torch", "safetensors")


def write(
    folder: Path,
    model: str,
    plugins: Sequence[Plugin],
    note: str,
    changed: Sequence[str],
    layout: str,
) -> None:
    """Add a section to the model card in `folder`, and write the record beside it.

    Args:
        folder: of the new checkpoint.
        model: the one before, as the user called it.
        plugins: what was written into its weights.
        note: in which way that is not what the plugins do; empty where it is the same.
        changed: names of the tensors that were changed.
        layout: how tensors are called; see `vlmheads.gains.names`.
    """
    record = {
        "baked": [plugin.describe() for plugin in plugins],
        "base_model": model,
        "layout": layout,
        "note": note,
        "versions": {name: version(name) for name in _PACKAGES},
        "changed": list(changed),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    path = folder / CARD
    before = path.read_text(encoding="utf-8", errors="replace").rstrip() if path.is_file() else ""
    section = "\n".join(_section(record))
    path.write_text(f"{before}\n\n{section}\n".lstrip(), encoding="utf-8")


def _section(record: dict[str, Any]) -> list[str]:
    """Return the lines of the section."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    options = [f"* `{one['name']}` with {_options(one['options'])}" for one in record["baked"]]
    return [
        "## Baked with vlmheads",
        "",
        f"The weights are those of `{record['base_model']}` with the effect of these plugins "
        "written into them, so that no plugin is needed:",
        "",
        *options,
        "",
        *([f"Not quite what the plugin does: {record['note']}.", ""] if record["note"] else []),
        "The change acts on every prompt, those without an image included. Nothing is said here "
        "about whether it helps: measure it with `vlmheads eval`.",
        "",
        f"{len(record['changed'])} tensors were changed, all others are the same bytes; "
        f"`{RECORD}` names them. Made with {versions}.",
    ]


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in options.items())
