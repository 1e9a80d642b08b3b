"""Options that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --model, --dtype and --device."""
    for option in (
        click.option("--device", help="Such as cpu or cuda:0; an accelerator where there is one."),
        click.option(
            "--dtype",
            default="auto",
            show_default=True,
            help="float32, float16, bfloat16, or auto: as saved, float32 on a CPU.",
        ),
        click.option(
            "--model",
            default="embedded",
            show_default=True,
            help="A packaged model, a folder with a saved model, or a hub id.",
        ),
    ):
        command = option(command)
    return command
