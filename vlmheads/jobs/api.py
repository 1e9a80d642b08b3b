"""What a job asks of a model, and captioning from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from vlmheads.caption import PROMPT, Caption, Captioner
from vlmheads.decoding import MAX_NEW_TOKENS
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.rewrite import drop_clauses
from vlmheads.grounding.scores import Scorer
from vlmheads.images import ImageLike, load_image
from vlmheads.jobs import run as jobs
from vlmheads.jobs.inputs import Found, Item, find, inner_item
from vlmheads.jobs.outputs import METADATA, PACKED, Output, open_output
from vlmheads.jobs.processes import launched
from vlmheads.jobs.resume import root_of
from vlmheads.jobs.run import Plan, Progress, Summary, Work
from vlmheads.model.inputs import model_inputs
from vlmheads.plugin import Plugin
from vlmheads.runtime.attachment import attach

# Sides of images are rounded up to this many pixels before their tokens are counted.
GRID = 64


def caption_images(
    captioner: Captioner,
    images: Iterable[str | Path] | Iterable[tuple[str, ImageLike]],
    out: str | Path | None = None,
    *,
    model: str = "",
    kind: str | None = None,
    root: str | Path | None = None,
    recursive: bool = False,
    prompt: str = PROMPT,
    max_new_tokens: int = MAX_NEW_TOKENS,
    scorer: Scorer | None = None,
    drop: bool = False,
    plan: Plan | None = None,
    progress: Progress = lambda done, total, failure: None,
) -> Summary:
    """Caption any number of images into a file or folder, and go on where an earlier call ended.

    It is `vlmheads caption --out` for a model that is loaded already.

    >>> pairs = ((f"{row['id']}.png", row["image"]) for row in rows)
    >>> caption_images(captioner, pairs, "captions.jsonl", model="my-model").done

    Args:
        captioner: the model with its processor and plugins.
        images: files, folders and patterns; or pairs of a name and an image, from any iterator,
            which is then read as the job goes.
        out: a file that ends with .jsonl, or a folder; None with `kind="txt"` for text files
            beside the images.
        model: what records call the model; a model of another name is another setting.
        kind: "jsonl", "metadata", "txt", "parquet" or "webdataset"; by default by the name of
            `out`.
        root: what names in the output are relative to; by default the innermost folder of all.
        recursive: enter folders inside of folders.
        prompt: what the model is asked about each.
        max_new_tokens: where a caption is cut off.
        scorer: measures how far the image supports each object, and flags those below its
            threshold.
        drop: with a scorer, add `text_safer` without unsupported clauses.
        plan: how; see `Plan`.
        progress: see `vlmheads.jobs.run.run`.

    Returns:
        How many were done, skipped and failed.

    Raises:
        VlmHeadsError: what `run` refuses, or a place and a format that do not go together.
    """
    found = _found(images, recursive)
    output, place = locate_output(found, out, kind, root, anew=plan is not None and plan.overwrite)
    if found.pairs is not None and output.format in (*PACKED, METADATA):
        raise VlmHeadsError(
            f"kind {output.format!r} for images that come from an iterator", "jsonl or txt"
        )

    def annotate(caption: Caption) -> dict[str, Any]:
        return {} if scorer is None else words_of(caption, scorer.threshold, drop=drop)

    work = work_of(
        captioner,
        {"model": model},
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        scorer=scorer,
        annotate=annotate,
        about={"drop": drop},
    )
    return jobs.run(
        found, place, output, work, plan or Plan(), processes=launched(), progress=progress
    )


def locate_output(
    found: Found,
    out: str | Path | None,
    kind: str | None,
    root: str | Path | None,
    *,
    anew: bool = False,
) -> tuple[Output, Path]:
    """Return where captions go, and what the names in them are relative to."""
    base = found.base if root is None else Path(os.path.abspath(root))
    output = open_output(None if out is None else Path(out), kind, base)
    if output.format == METADATA:  # whose names are relative to the file that holds them
        if root is not None and base != output.place:
            raise VlmHeadsError(f"--root {root} with --format metadata", "no root but --out")
        if not found.base.is_relative_to(output.place):
            raise VlmHeadsError(
                f"--out {out} with --format metadata for images in {found.base}",
                "the folder of the images, or one around it",
                "name that folder, or choose --format parquet or webdataset",
            )
        return output, output.place
    if root is not None or anew:
        return output, base
    return output, root_of(output, base)


def work_of(
    captioner: Captioner,
    identity: Mapping[str, Any],
    *,
    prompt: str = PROMPT,
    max_new_tokens: int = MAX_NEW_TOKENS,
    compare: bool = False,
    scorer: Scorer | None = None,
    annotate: Callable[[Caption], dict[str, Any]] = lambda caption: {},
    about: Mapping[str, Any] | None = None,
) -> Work:
    """Return what a job asks of a captioner.

    Args:
        captioner: the model with its processor and plugins.
        identity: what tells the model from others, with its name as `model`.
        prompt: what it is asked about each image.
        max_new_tokens: where a caption is cut off.
        compare: add the plain caption as `plain`.
        scorer: measures the words of each caption.
        annotate: returns what else a record says of a caption.
        about: further settings that determine a record.

    Raises:
        VlmHeadsError: a prompt or plugins that do not go with the model.
    """
    blank = Image.new("RGB", (GRID, GRID), "white")
    with attach(captioner.model, captioner.plugins):
        model_inputs(captioner.model, captioner.processor, [blank], prompt)
    described = [plugin.describe() for plugin in captioner.plugins]
    plugins = [spelled(plugin) for plugin in captioner.plugins]
    settings = {
        **identity,
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "plugins": described,
        "compare": compare,
        "scorer": None if scorer is None else scorer.to_dict(),
        **(about or {}),
    }

    def describe(images: Sequence[Image.Image]) -> list[dict[str, Any]]:
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": len(images)}
        said = captioner(images, prompt, words=scorer or False, **options)
        plain = captioner(images, prompt, plugins=(), **options) if compare else None
        records = []
        for index, caption in enumerate(said):
            record: dict[str, Any] = {
                "text": caption.text,
                "tokens": caption.tokens,
                "at_limit": caption.at_limit,
                "model": identity["model"],
                "plugins": plugins,
            }
            if plain is not None:
                record["plain"] = plain[index].text
            records.append(record | annotate(caption))
        return records

    @cache
    def tokens(width: int, height: int) -> int:
        picture = Image.new("RGB", (width, height), "white")
        inputs = model_inputs(captioner.model, captioner.processor, [picture], prompt)
        return int(inputs["input_ids"].shape[1]) + max_new_tokens

    def cost(size: tuple[int, int]) -> int:
        width, height = (-(-side // GRID) * GRID for side in size)
        return tokens(width, height)

    return Work(describe, settings, cost)


def spelled(plugin: Plugin) -> str:
    """Return a plugin as one text: its name and options, as `--plugin` takes them."""
    described = plugin.describe()
    options = ",".join(f"{key}={value}" for key, value in described["options"].items())
    return f"{described['name']}:{options}" if options else str(described["name"])


def words_of(caption: Caption, threshold: float, *, drop: bool = False) -> dict[str, Any]:
    """Return the columns of a caption's words: those that name objects, with their scores."""
    words = [
        {
            "text": word.text,
            "object": word.object,
            "start": word.start,
            "end": word.end,
            "score": word.score,
            "flagged": word.score < threshold,
        }
        for word in caption.words
        if word.object
    ]
    if not drop:
        return {"words": words}
    rewrite = drop_clauses(caption.text, caption.words, threshold)
    return {"words": words, "text_safer": rewrite.text, "removed": list(rewrite.removed)}


def _found(
    images: Iterable[str | Path] | Iterable[tuple[str, ImageLike]], recursive: bool
) -> Found:
    """Tell files from pairs of a name and an image."""
    if isinstance(images, str | Path):
        images = [images]
    rest = iter(images)
    first: Any = next(rest, None)
    if first is None:
        return Found(base=Path.cwd())
    every: Iterable[Any] = chain([first], rest)
    if isinstance(first, str | Path):
        return find([str(name) for name in every], recursive=recursive)
    return Found(base=Path.cwd(), pairs=(_item(name, image) for name, image in every))


def _item(name: str, image: ImageLike) -> Item:
    """Return an image in memory as the item of a file that holds it."""
    content = BytesIO()
    try:
        load_image(image).save(content, "png", compress_level=1)
    except VlmHeadsError as error:
        return Item(name, problem=error)
    return inner_item(name, content.getvalue())
