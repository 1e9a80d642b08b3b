"""Tables in the terminal: whatever the width, no word and no interval is broken."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from vlmheads_eval.report.terminal import print_rows, turned

ROWS = [
    ["run", "plain", "random-heads-0", "halc_llava_greedy_pooled", "vhr:alpha=2.0"],
    ["CHAIR_S %", *["47.6 [43.2, 52.0]"] * 4],
    ["S at equal recall", *["-9.2 [-14.6, -3.7]"] * 4],
    ["verdict", "baseline (greedy)", *["on the frontier, says less; repeats, broken text"] * 3],
]


def printed(rows, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_rows("Runs", rows, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_word_and_interval_stays_whole(width):
    text = printed(ROWS, width)
    assert max(map(len, text.splitlines())) <= width
    for row in ROWS:
        for cell in row:
            figure, _, interval = cell.partition(" [")
            for piece in [f"[{interval}"] if interval else figure.split():
                assert piece in text


def test_a_table_that_is_too_wide_is_split_between_columns():
    text = printed(ROWS, 80)
    assert text.count("Runs") == 2
    assert "Runs, continued" in text
    assert text.count("S at equal recall") == 2
    assert "continued" not in printed(ROWS, 200)


def test_a_word_wider_than_the_terminal_is_broken_rather_than_lost():
    text = printed([["run", "x" * 90], ["a", "1"]], 40)
    assert text.count("x") == 90


def test_rows_are_turned():
    assert turned([["a", "b"], ["1", "2"]]) == [["a", "1"], ["b", "2"]]
