import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from vlmheads_eval.commands.evaluate import evaluate

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def golden():
    """Return a file of values that the official codes gave on invented inputs."""
    return lambda name: json.loads((GOLDENS / f"{name}.json").read_text("utf-8"))


@pytest.fixture
def run():
    def invoke(*arguments):
        return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])

    return invoke
