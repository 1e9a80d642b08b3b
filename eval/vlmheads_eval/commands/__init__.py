"""The commands of the evaluator, and errors as one line without a traceback."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click

from vlmheads.errors import VlmHeadsError, install_hint

EXTRA = frozenset(("nltk", "pycocotools", "yaml"))  # Packages of the extra "eval".
P = ParamSpec("P")
R = TypeVar("R")


class CommandError(click.ClickException):
    """An error as one line, with exit code 2 as in `vlmheads`."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the line to standard error."""
        click.echo(f"error: {self.message}", err=True, file=file)


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of the library into one line, and let every other exception through."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except VlmHeadsError as error:
            raise CommandError(" ".join(str(error).split())) from error
        except ModuleNotFoundError as error:
            if error.name not in EXTRA:
                raise
            message = f"{error.name} is not installed; install it with {install_hint('eval')}"
            raise CommandError(message) from error

    return wrapped
