"""The command group `vlmheads eval`."""

import click

from vlmheads_eval.compare_commands import compare, report
from vlmheads_eval.predict_commands import predict
from vlmheads_eval.score_commands import score
from vlmheads_eval.sweep_commands import run


@click.group()
def evaluate() -> None:
    """Predict, score, compare and report hallucination."""


for command in (predict, score, compare, report, run):
    evaluate.add_command(command)
