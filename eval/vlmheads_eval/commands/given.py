"""What was given on the command line: for messages, and for the record of what was run."""

import shlex

import click

from vlmheads.commands.endpoint_options import said


def flag(name: str) -> str:
    """Return the option of the command that runs, as it is written, by its parameter's name."""
    params = click.get_current_context().command.params
    return next(max(param.opts, key=len) for param in params if param.name == name)


def command_line() -> str:
    """Return the command that runs, with the arguments and options that were given."""
    context = click.get_current_context()
    words = ["vlmheads", str(context.command.name)]
    for param in context.command.params:
        name = str(param.name)
        if not said(name):
            continue
        value = context.params[name]
        if isinstance(param, click.Argument):
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(flag(name) if value else param.secondary_opts[0])
        else:
            for one in value if isinstance(value, tuple) else (value,):
                words += [flag(name), str(one)]
    return shlex.join(words)
