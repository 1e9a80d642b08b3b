"""Errors at the command line: one line, no traceback."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click

from vlmheads.errors import VlmHeadsError

P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what the library refuses into click's own error, and leave every other fault visible."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except VlmHeadsError as error:
            raise click.ClickException(" ".join(str(error).split())) from error

    return wrapped
