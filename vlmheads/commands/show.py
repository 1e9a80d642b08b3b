"""What the subcommands share: the options of a model, and what they show in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlmheads.printable import plain, printable


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


def quiet_loading(model: str) -> None:
    """Leave out transformers' own bars and notes for a model that is read in an instant.

    Bars are left out for any model where standard error is no terminal: a log wants none.
    """
    from transformers.utils import logging

    from vlmheads.model.loading import packaged_models

    packaged = model in packaged_models()
    if packaged or not sys.stderr.isatty():
        logging.disable_progress_bar()
    if packaged:
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
        said = (
            plain(found.get("rewrite", found["caption"])) if "words" not in found else marked(found)
        )
        console.print(plain(f"{found['image']}: ").append(said))
        if "rewrite" in found:
            _rewritten(console, found)
        return
    names = ", ".join(plugin["name"] for plugin in found["plugins"])
    before, after = differing(printable(found["plain"]), printable(found["caption"]))
    table = Table(title=plain(found["image"]), title_justify="left", expand=True)
    table.add_column("plain", ratio=1)
    table.add_column(names, ratio=1)
    table.add_row(before, after)
    console.print(table)
    if found["plain"] == found["caption"]:
        console.print("no word differs")
    elif not (before.spans or after.spans):
        console.print("the wording differs, the objects that are named do not")
    if "words" in found:
        console.print(Text("flagged: ").append(marked(found)), soft_wrap=True)
    if "rewrite" in found:
        _rewritten(console, found, always=True)


def marked(found: dict[str, Any]) -> Text:
    """Mark the objects of a caption that the image does not support: [?fork 0.12]."""
    said, done = Text(), 0
    for word in found["words"]:
        if word["flagged"]:
            said.append(printable(found["caption"][done : word["start"]]))
            said.append(printable(f"[?{word['text']} {word['score']:.2f}]"), "red")
            done = word["end"]
    return said.append(printable(found["caption"][done:]))


def _rewritten(console: Console, found: dict[str, Any], *, always: bool = False) -> None:
    """Print the rewritten caption where it is not printed yet, and what was removed."""
    if "words" in found or always:
        console.print(plain(f"rewritten: {found['rewrite']}"), soft_wrap=True)
    if found["removed"]:
        console.print(
            plain(f"removed: {' | '.join(found['removed'])}"), style="dim", soft_wrap=True
        )
    if found["unsupported"]:
        console.print(Text("no sentence is supported; the least unsupported one is kept", "dim"))


def differing(before: str, after: str) -> tuple[Text, Text]:
    """Mark objects that only one of two captions names: [-cat-] in the first, {+fork+} in the next.

    Wording is left alone: without the truth, "The image shows" for "There is" is no finding.
    """
    from vlmheads.grounding.words import find_objects

    old, new = find_objects(before), find_objects(after)
    lost = [(start, end) for start, end, name in old if name not in {n for *_, n in new}]
    gained = [(start, end) for start, end, name in new if name not in {n for *_, n in old}]
    return _framed(before, lost, ("[-", "-]"), "red"), _framed(after, gained, ("{+", "+}"), "green")


def _framed(text: str, spans: list[tuple[int, int]], signs: tuple[str, str], style: str) -> Text:
    """Put signs around the characters of some spans."""
    framed, done = Text(), 0
    for start, end in spans:
        framed.append(text[done:start]).append(f"{signs[0]}{text[start:end]}{signs[1]}", style)
        done = end
    return framed.append(text[done:])


def objects(console: Console, records: list[dict[str, Any]], top: int) -> None:
    """Print the objects of captions: of one all of them, of several those with least support."""
    rows = [(record, word) for record in records for word in record["words"] if word["object"]]
    if len(records) == 1:
        console.print(plain(f"caption: {records[0]['caption']}"))
    else:
        rows = sorted(rows, key=lambda row: float(row[1]["score"]))[:top]
    several = len(records) > 1
    title = "objects with the lowest scores" if several else "objects"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    if several:
        table.add_column("image", justify="right", no_wrap=True)
    table.add_column("word", no_wrap=True)
    for column in ("place", "mention", "T-VHD", "on image", "log p", "log p without", "score"):
        table.add_column(column, justify="right")
    images = list(dict.fromkeys(record["image"] for record, _ in rows)) if several else []
    for record, word in rows:
        measured = (word["divergence"], word["attention"], word["log_probability"],
                    word["log_probability_without"])  # fmt: skip
        table.add_row(
            *([str(images.index(record["image"]) + 1)] if several else []),
            plain(word["text"]),
            str(word["first"]),
            "repeat" if word["repeat"] else "first",
            *(f"{value:.2f}" for value in measured),
            f"{word['score']:.3f}{' ?' if word['flagged'] else '  '}",
        )
    console.print(table)
    for number, image in enumerate(images, 1):  # A name may be as wide as the table.
        console.print(plain(f"image {number}: {Path(image).name}"), highlight=False, soft_wrap=True)
