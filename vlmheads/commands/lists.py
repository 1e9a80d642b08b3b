"""`vlmheads plugins`, `presets` and `families`: what is installed, and what it can work on."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlmheads.errors import VlmHeadsError

if TYPE_CHECKING:
    from vlmheads.model.coverage import Coverage


@click.command()
@click.argument("name", required=False)
@click.option("--markdown", is_flag=True, help="Print a table for documents.")
def plugins(name: str | None, markdown: bool) -> None:
    """List the installed plugins, or describe the one called NAME."""
    from vlmheads.entries import installed
    from vlmheads.plugin import Plugin
    from vlmheads.registry import get_plugin, list_plugins

    def title(plugin: type[Plugin]) -> str:
        return (inspect.getdoc(plugin) or "").partition("\n")[0]

    if name is not None:
        plugin = get_plugin(name)
        click.echo(f"{name}: {inspect.getdoc(plugin)}\n\nOptions:")
        for field in dataclasses.fields(plugin):
            click.echo(f"  {field.name}={_default(field)}{_range(field)}")
            click.echo(f"      {field.metadata.get('help', '')}")
        return
    entries = installed()
    for found in list_plugins():
        plugin = get_plugin(found)
        hooks = ", ".join(hook.removeprefix("on_") for hook in plugin.hooks())
        if markdown:
            row = (f"`{found}`", title(plugin), plugin.paper, hooks, plugin.cost)
            click.echo(f"| {' | '.join(row)} |")
            continue
        origin = entries[found].dist
        where = f"{origin.name} {origin.version}" if origin else "?"
        click.echo(f"{found}  ({where})\n    {title(plugin)}")
        click.echo(f"    paper: {plugin.paper or '-'}\n    hooks: {hooks}\n    cost: {plugin.cost}")
        options = (f"{f.name}={_default(f)}{_range(f)}" for f in dataclasses.fields(plugin))
        click.echo(f"    options: {', '.join(options) or 'none'}")


@click.command()
@click.option("--markdown", is_flag=True, help="Print a table for documents.")
@click.option("--check", is_flag=True, help="Compare it with the installed transformers.")
def families(markdown: bool, check: bool) -> None:
    """List the model families, and what was tested of each.

    Some are tested, some in part, and some are refused, with the reason.

    "Tested" means that a tiny random model of each entry passed the whole sweep of tests/families;
    real checkpoints that passed `vlmheads verify` are named.

    --check lists the image-text models of the installed transformers that are in none of the
    families, or whose family was not tested.
    """
    from vlmheads.model.coverage import Coverage
    from vlmheads.model.families import families as known

    if check and markdown:
        raise VlmHeadsError("--check with --markdown", "one of the two")
    coverage = Coverage.load()
    if check:
        _check(coverage)
        return
    if not markdown:
        click.echo(f"swept on transformers {coverage.transformers}, torch {coverage.torch}\n")
    for family in known():
        state, detail = coverage.of(family)
        built, real = coverage.built(family), family.checkpoints
        note = "; ".join(part for part in (detail, family.note) if part)
        if markdown:
            cells = (_codes(family.model_types), state, _codes(_variants(built)), _codes(real))
            click.echo(f"| {family.name} | {' | '.join(cells)} | {note} |")
            continue
        types = ", ".join(family.model_types)
        click.echo(f"{family.name}  [{types}]  {state}" + (f": {note}" if note else ""))
        if built and (more := _variants(built)):
            click.echo(f"    tiny random models also as {', '.join(more)}")
        if real:
            click.echo(f"    real checkpoints: {', '.join(real)}")


def _variants(entries: list[str]) -> list[str]:
    """Return the entries that are another decoder, or another option, of a model type."""
    return [entry for entry in entries if "+" in entry]


def _codes(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _check(coverage: Coverage) -> None:
    """Print what the installed transformers has that the table does not answer for."""
    import transformers

    from vlmheads.model.coverage import PARTLY, REFUSED, TESTED, UNTESTED, installed_entries

    entries = installed_entries()
    states = []
    for name in sorted(entries):
        state, detail = coverage.state(name)
        states.append(state)
        if state == UNTESTED:
            new, reason = ("", f": {detail}") if detail else ("new: ", "")
            click.echo(f"{new}not tested: {name} ({entries[name]}){reason}")
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in (TESTED, PARTLY, REFUSED, UNTESTED)
    )
    click.echo(
        f"{len(entries)} image-text models in transformers {transformers.__version__}: {counts}; "
        f"the table was made on {coverage.transformers}"
    )


@click.group(invoke_without_command=True)
@click.option("--markdown", is_flag=True, help="Print a table for documents.")
@click.option("--for", "model", metavar="MODEL", help="Say what is recommended for it, and why.")
@click.pass_context
def presets(context: click.Context, markdown: bool, model: str | None) -> None:
    """List the presets: settings of papers, or measured on a model.

    `--plugin auto` takes the one that was measured on the model at hand.
    """
    if context.invoked_subcommand is not None:
        if markdown or model is not None:
            raise click.UsageError(f"{context.invoked_subcommand} takes neither option")
        return
    if model is not None:
        if markdown:
            raise click.UsageError("--for and --markdown have nothing to do with each other")
        from vlmheads.model.loading import locate
        from vlmheads.printable import one_line
        from vlmheads.recommended import recommended

        found = recommended(locate(model))
        click.echo(one_line(f"{found.preset or 'none'}: {found.reason}"))
        return
    _list_presets(markdown)


@presets.command()
@click.argument("file")
@click.option("--name", default="", help="What to call it. [default: as the file]")
@click.option(
    "--learned",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `vlmheads learn` wrote, for a preset that needs it.",
)
def install(file: str, name: str, learned: Path | None) -> None:
    """Keep the preset FILE, or a shipped one, for `--plugin auto`.

    The files that it names are kept with it.
    """
    from vlmheads.registry import install_preset

    called = install_preset(file, name, learned)
    click.echo(f"{called} is installed; `--plugin auto` takes it for the model that it names")


@presets.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete the installed preset NAME."""
    from vlmheads.user_presets import remove_preset

    remove_preset(name)


def _list_presets(markdown: bool) -> None:
    from vlmheads.entries import report
    from vlmheads.printable import one_line
    from vlmheads.registry import list_presets, read_preset, shipped_presets

    for name in shipped_presets() if markdown else list_presets():
        try:
            preset = read_preset(name)
        except VlmHeadsError as error:  # of another package, or for a plugin that is not there
            report(error)
            continue
        plugins = ", ".join(plugin.name for plugin in preset.plugins)
        if markdown:
            click.echo(f"| `{name}` | {plugins} | {preset.family} | {preset.source} |")
        else:
            click.echo(one_line(f"{name}  ({plugins}; {preset.family})"))
            for text in filter(None, (preset.source, preset.note)):
                click.echo(f"    {one_line(text)}")


def _default(field: dataclasses.Field[object]) -> str:
    return str(field.default) if field.default is not dataclasses.MISSING else "?"


def _range(field: dataclasses.Field[object]) -> str:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    choices = field.metadata.get("choices")
    if choices:
        return f" ({' | '.join(map(str, choices))})"
    if high is None:
        return "" if low is None else f" ({low} or more)"
    return f" (at most {high})" if low is None else f" ({low} to {high})"
