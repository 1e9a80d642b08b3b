"""Which method, at which strength, for a model: a search that confirms what it chose."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from vlmheads_eval.tune.settings import Settings

if TYPE_CHECKING:
    from vlmheads_eval.tune.outcome import Outcome

__all__ = ["Settings", "tune"]


def tune(
    settings: Settings,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int], Callable[[int], None]] = lambda total: lambda number: None,
) -> "Outcome":
    """Search for a setting that beats the plain model at equal recall on images of its own.

    >>> outcome = tune(Settings("embedded", "testbed:val", Path("out"), methods=("adhh", "vcd")))
    >>> print(outcome.verdict)

    The folder then holds the report (report.md, report.html), everything as plain values
    (tune.json), and a preset where a setting is recommended. A call that is stopped goes on where
    it was.

    Args:
        settings: the model, the data and the folder.
        say: called with the plan and its estimate, and with what each step found.
        progress: called with how many captions there are to make; returns what each batch calls.

    Raises:
        VlmHeadsError: see `vlmheads_eval.tune.run.search`.
    """
    from vlmheads_eval.tune.report import write_outcome
    from vlmheads_eval.tune.run import search

    return write_outcome(search(settings, say, progress))
