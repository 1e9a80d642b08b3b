"""The `vlmheads` command: its own subcommands, and those that other packages add."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

import click

import vlmheads
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
    "verify": "vlmheads.commands.verify:verify",
}


class _Refusal(click.ClickException):
    """A refusal, printed as one line; the exit code is 2."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        click.echo(f"error: {self.message}", err=True)


class _Commands(click.Group):
    """Commands that are imported only when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_OWN, *(entry.name for entry in entry_points(group=GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OWN:
            module, _, name = _OWN[cmd_name].partition(":")
            own: click.Command = getattr(import_module(module), name)
            return own
        for entry in entry_points(group=GROUP):
            if entry.name == cmd_name:
                return _load(entry.name, entry.load)
        return None

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except VlmHeadsError as error:
            raise _Refusal(" ".join(str(error).split())) from error


def _load(name: str, load: object) -> click.Command:
    """Import another package's command; one that is broken says so when it is run."""
    try:
        command = load()  # type: ignore[operator]
    except Exception as error:  # another package may fail in any way, and must not take --help down
        reason = f"command {name!r} cannot be imported: {type(error).__name__}: {error}"

        @click.command(name, help=f"({reason})", context_settings={"ignore_unknown_options": True})
        @click.argument("arguments", nargs=-1)
        def broken(arguments: tuple[str, ...]) -> None:
            raise VlmHeadsError(reason, todo="fix or uninstall the package that provides it")

        return broken
    if not isinstance(command, click.Command):
        raise VlmHeadsError(f"command {name!r} is {command!r}", "a click command")
    return command


@click.group("vlmheads", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(vlmheads.__version__, prog_name="vlmheads")
def main() -> None:
    """Fewer invented objects from vision-language models.

    Measure which attention heads look at the picture, steer them while the model generates, and
    score what it said.
    """
