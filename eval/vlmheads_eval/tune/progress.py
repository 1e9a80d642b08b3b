"""How far a search is, on standard error: a bar with the time left, and lines above it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vlmheads_eval.tune.run import Progress
from vlmheads_eval.tune.steps import Say


@contextmanager
def progress_shown(shown: bool) -> Iterator[tuple[Say, Progress]]:
    """Yield what says a line, and what shows how many captions are made.

    Args:
        shown: False on all processes but the first.
    """
    if not shown:
        yield lambda line: None, lambda total: lambda number: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("captions at most"), Remaining())
    bar = Bar(*columns, console=console)

    def start(total: int) -> Callable[[int], None]:
        task = bar.add_task("", total=total)
        bar.start()
        return lambda number: bar.advance(task, number)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        yield say, start
    finally:
        if bar.tasks:
            bar.stop()
