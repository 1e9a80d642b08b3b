"""docs/benchmarks.md shows the reference values that the tests hold."""

from pathlib import Path

import benchmark_tables
from vlmheads_eval.benchmarks.registry import COMPARED
from vlmheads_eval.commands import benchmarks

DOCS = Path(__file__).parents[3] / "docs"


def test_the_tables_of_the_document_are_those_of_the_goldens():
    text = (DOCS / "benchmarks.md").read_text("utf-8")
    assert benchmark_tables.filled(text) == text, "run python docs/benchmark_tables.py"


def test_the_command_line_knows_every_benchmark_and_reading():
    assert set(benchmarks.COMPARED) == set(COMPARED)
    for name, readings in benchmarks.READINGS.items():
        assert readings == tuple(COMPARED[name].readings)
