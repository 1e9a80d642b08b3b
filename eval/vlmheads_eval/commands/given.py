"""What was given on the command line, for the record of what was run."""

import shlex

import click

from vlmheads.commands.endpoint_options import flag, said


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
