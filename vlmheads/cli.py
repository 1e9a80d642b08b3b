"""The `vlmheads` command: its own subcommands, and those that other packages add."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint

import click

import vlmheads
from vlmheads.commands.edge import OneLineGroup
from vlmheads.entries import FIX, called, installed, load_entry
from vlmheads.errors import VlmHeadsError

GROUP = "vlmheads.commands"

# Where the core's own subcommands live. None of these modules loads torch before it runs.
_OWN = {
    "bake": "vlmheads.commands.bake:bake",
    "caption": "vlmheads.commands.caption:caption",
    "detect": "vlmheads.commands.detect:detect",
    "families": "vlmheads.commands.lists:families",
    "plugins": "vlmheads.commands.lists:plugins",
    "presets": "vlmheads.commands.lists:presets",
    "serve": "vlmheads.commands.serve:serve",
    "verify": "vlmheads.commands.verify:verify",
}


class _Commands(OneLineGroup):
    """Commands that are imported only when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_OWN, *installed(GROUP)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OWN:
            module, _, name = _OWN[cmd_name].partition(":")
            own: click.Command = getattr(import_module(module), name)
            return own
        entry = installed(GROUP).get(cmd_name)
        return None if entry is None else _load(entry)


def _load(entry: EntryPoint) -> click.Command:
    """Import another package's command; one that is broken says so when it is run."""
    try:
        command = load_entry(entry)
        if isinstance(command, click.Command):
            return command
        raise VlmHeadsError(f"{called(entry)} is {type(command).__name__}", "a click command", FIX)
    except VlmHeadsError as error:
        reason = error

    @click.command(
        entry.name, help=f"({reason})", context_settings={"ignore_unknown_options": True}
    )
    @click.argument("arguments", nargs=-1)
    def broken(arguments: tuple[str, ...]) -> None:
        raise reason

    return broken


EXAMPLES = """\b
Examples:
  vlmheads caption photo.jpg --model llava-hf/llava-1.5-7b-hf
  vlmheads tune --model llava-hf/llava-1.5-7b-hf --data coco/ --out tuned
  vlmheads demo
"""


@click.group(
    "vlmheads",
    cls=_Commands,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(vlmheads.__version__, prog_name="vlmheads")
def main() -> None:
    """Fewer invented objects from vision-language models.

    Measure which attention heads look at the picture, steer them while the model generates, and
    score what it said.
    """
