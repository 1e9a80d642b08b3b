"""The command line as it is kept in what a command writes."""

import shlex

import click
import pytest
from click.testing import CliRunner
from vlmheads_eval.commands.given import command_line

from vlmheads.commands.endpoint_options import flag


@click.command("measure")
@click.argument("method")
@click.option("--data", "-d", default="a")
@click.option("--plugin", "plugins", multiple=True)
@click.option("--lens/--no-lens", default=None)
@click.option("--batch-size", default=8)
def measure(**_: object) -> None:
    click.echo(command_line())
    click.echo(flag("plugins"))


@pytest.mark.parametrize(
    "line",
    [
        "vhr",
        "vhr --data 'my data' --plugin a --plugin b:c=1 --lens --batch-size 8",
        "vhr --no-lens",
    ],
)
def test_the_command_line_is_kept_as_it_was_given(line):
    result = CliRunner().invoke(measure, shlex.split(line))
    assert result.stdout.splitlines() == [f"vlmheads measure {line}", "--plugin"]


def test_a_short_option_is_written_out():
    result = CliRunner().invoke(measure, ["-d", "b", "vhr"])
    assert result.stdout.splitlines()[0] == "vlmheads measure vhr --data b"
