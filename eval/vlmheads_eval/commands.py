"""The command group `vlmheads eval`."""

import click

from vlmheads_eval.score_commands import score


@click.group()
def evaluate() -> None:
    """Predict, score, compare and report hallucination."""


evaluate.add_command(score)
