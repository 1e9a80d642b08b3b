"""Where commands meet the terminal: one line and exit code 2 for refusals, 130 for Ctrl-C."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click
from click.exceptions import NoArgsIsHelpError

from vlmheads.errors import VlmHeadsError, install_hint
from vlmheads.printable import one_line

P = ParamSpec("P")
R = TypeVar("R")
# Packages of an extra, by the name they are imported with.
EXTRAS = {"matplotlib": "figures", "nltk": "eval", "yaml": "eval"}


class CommandError(click.ClickException):
    """A refusal, printed as one line; the exit code is 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the line to standard error."""
        click.echo(f"error: {one_line(self.message)}", err=True, file=file)


class Interrupted(click.ClickException):
    """Ctrl-C, which shells know by the exit code 130."""

    exit_code = 130

    def show(self, file: Any = None) -> None:
        """Print the line to standard error."""
        click.echo(self.message, err=True, file=file)


class OneLineGroup(click.Group):
    """A group whose commands refuse in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options of the group itself."""
        with refusals():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Parse and run a subcommand."""
        with refusals():
            return super().invoke(ctx)


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command that is run on its own refuse in one line, too."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with refusals():
            return command(*args, **kwargs)

    return wrapped


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what is refused here, by click, or by the file system, into one line; Ctrl-C, too.

    Every other exception passes: it is an error of ours, and its traceback is needed.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted") from error
    except NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        help_of = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        raise CommandError(error.format_message().rstrip(".") + help_of) from error
    except VlmHeadsError as error:
        raise CommandError(str(error)) from error
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        message = f"{error.name} is not installed; install it with {install_hint(extra)}"
        raise CommandError(message) from error
    except OSError as error:
        if error.errno in (None, errno.EPIPE):
            raise
        place = f"{error.filename}: " if error.filename else ""
        raise CommandError(f"{place}{error.strerror}") from error
