"""`vlmheads plugins`, `presets` and `families`: what is installed, and what it can work on."""

from __future__ import annotations

import dataclasses
import inspect

import click


@click.command()
@click.argument("name", required=False)
@click.option("--markdown", is_flag=True, help="Print a table for documents.")
def plugins(name: str | None, markdown: bool) -> None:
    """List the installed plugins, or describe the one called NAME."""
    from vlmheads.plugin import Plugin
    from vlmheads.registry import get_plugin, installed, list_plugins

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
def families(markdown: bool) -> None:
    """List the model families, and those that are refused."""
    from vlmheads.model.families import families as known

    for family in known():
        state = "refused" if family.refusal else "tested" if family.tested else "not tested"
        types = ", ".join(family.model_types)
        note = family.refusal or family.note
        if markdown:
            click.echo(f"| {family.name} | `{types}` | {state} | {note} |")
        else:
            click.echo(f"{family.name}  [{types}]  {state}" + (f": {note}" if note else ""))


@click.command()
@click.option("--markdown", is_flag=True, help="Print a table for documents.")
def presets(markdown: bool) -> None:
    """List the shipped presets: plugins with the settings of a paper, and their source."""
    from vlmheads.registry import list_presets, read_preset

    for name in list_presets():
        preset = read_preset(name)
        plugins = ", ".join(plugin.name for plugin in preset.plugins)
        if markdown:
            click.echo(f"| `{name}` | {plugins} | {preset.family} | {preset.source} |")
        else:
            click.echo(f"{name}  ({plugins}; {preset.family})\n    {preset.source}")
            if preset.note:
                click.echo(f"    {preset.note}")


def _default(field: dataclasses.Field[object]) -> str:
    return str(field.default) if field.default is not dataclasses.MISSING else "?"


def _range(field: dataclasses.Field[object]) -> str:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    choices = field.metadata.get("choices")
    if choices:
        return f" ({' | '.join(map(str, choices))})"
    return "" if low is None and high is None else f" ({low} to {high})"
