"""What the subcommands show in a terminal."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


def quiet_loading(model: str) -> None:
    """Leave out transformers' own bars and notes for a model that is read in an instant."""
    from transformers.utils import logging

    from vlmheads.models import packaged_models

    if model in packaged_models():
        logging.disable_progress_bar()
        logging.set_verbosity_error()


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr while several images are worked on."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = total < 2 or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("images", total=total)
        yield lambda count: bar.advance(task, count)


def record(found: dict[str, Any]) -> None:
    """Print the caption of one image, beside the plain one where there is one."""
    console = Console(soft_wrap="plain" not in found)
    if "plain" not in found:
        console.print(Text(f"{found['image']}: {found['caption']}"))
        return
    names = ", ".join(plugin["name"] for plugin in found["plugins"])
    before, after = differing(found["plain"], found["caption"])
    table = Table(title=Text(found["image"]), title_justify="left", expand=True)
    table.add_column("plain", ratio=1)
    table.add_column(names, ratio=1)
    table.add_row(before, after)
    console.print(table)
    if found["plain"] == found["caption"]:
        console.print("no word differs")


def differing(before: str, after: str) -> tuple[Text, Text]:
    """Mark the words that two captions do not share: [-lost-] in the one, {+new+} in the other."""
    old, new = before.split(), after.split()
    left, right = Text(), Text()
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        same = kind == "equal"
        if a < b:
            lost = " ".join(old[a:b])
            left.append(f"{lost} " if same else f"[-{lost}-] ", "" if same else "red")
        if c < d:
            gained = " ".join(new[c:d])
            right.append(f"{gained} " if same else f"{{+{gained}+}} ", "" if same else "green")
    left.rstrip()
    right.rstrip()
    return left, right
