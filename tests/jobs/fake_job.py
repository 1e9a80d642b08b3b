"""A job with a model that is none, for tests, some of which start processes and kill them.

Usage: python fake_job.py IMAGES OUT [FORMAT]; each image takes a hundredth of a second.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vlmheads.jobs.inputs import find
from vlmheads.jobs.outputs import open_output
from vlmheads.jobs.resume import root_of
from vlmheads.jobs.run import Plan, Summary, Work, run

SETTINGS = {"model": "none"}


def describe(images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    return [{"text": f"The colour {image.getpixel((0, 0))}.", "tokens": 3} for image in images]


def slowly(images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    time.sleep(0.01 * len(images))
    return describe(images)


def caption(
    names: object,
    out: Path | None,
    kind: str | None = None,
    *,
    work: Any = describe,
    settings: Any = None,
    progress: Any = lambda done, total, failure: None,
    processes: Any = None,
    **plan: Any,
) -> Summary:
    """Run a job from start to end, as the command does."""
    names = names if isinstance(names, list | tuple) else [names]
    found = find([str(name) for name in names], recursive=True)
    output = open_output(out, kind, found.base)
    root = output.place if kind == "metadata" else root_of(output, found.base)
    work = Work(work, SETTINGS if settings is None else settings)
    options = {"batch_size": 4, "workers": 2} | plan
    return run(found, root, output, work, Plan(**options), progress=progress, processes=processes)


def paint(folder: Path, number: int, suffix: str = ".png") -> list[Path]:
    """Make images of distinct colours, half of them in a folder of their own."""
    (folder / "more").mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(number):
        path = folder / ("more" if index % 2 else ".") / f"{index:03d}{suffix}"
        Image.new("RGB", (8 + index % 5, 8), (index, 0, 0)).save(path)
        paths.append(path)
    return paths


def dying(images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """Describe until an image comes whose number says that this process is to be killed."""
    if any(image.getpixel((0, 0)) == (int(os.environ["DIE_AT"]), 0, 0) for image in images):
        time.sleep(0.5)  # while others go on
        os.kill(os.getpid(), signal.SIGKILL)
    return slowly(images)


if __name__ == "__main__":
    if "RANK" in os.environ:
        from vlmheads.jobs.processes import launched

        work = dying if "DIE_AT" in os.environ else slowly
        caption(sys.argv[1], Path(sys.argv[2]), work=work, processes=launched(), batch_size=2)
    else:
        caption(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:], work=slowly)
