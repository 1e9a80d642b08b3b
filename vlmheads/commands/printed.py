"""`vlmheads caption` without an output: captions on a terminal or in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from vlmheads.printable import json_text, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmheads.caption import Captioner
    from vlmheads.commands.flags import WordOptions
    from vlmheads.commands.job import Ask
    from vlmheads.jobs.inputs import Found


def print_captions(
    found: Found, ask: Ask, captioner: Captioner, words: WordOptions | None, as_json: bool
) -> None:
    """Print captions in order of input; exits with 2 where images failed."""
    from vlmheads.commands import show
    from vlmheads.jobs.archives import number_of_images
    from vlmheads.jobs.batches import batches
    from vlmheads.jobs.inputs import items

    failed = drawn_only = False
    plan = ask.plan
    total = len(found.files) + len(found.problems)
    total += sum(number_of_images(path) or 0 for path in found.archives)
    source = batches(
        items(found, None, column=plan.column),
        plan.batch_size,
        workers=plan.workers,
        by_size=False,
    )
    with closing(source), show.progress(total) as advance:
        for batch in source:
            readable = []
            for picture in batch:
                if picture.image is None:
                    click.echo(f"error: {one_line(picture.error)}", err=True)
                    failed = True
                else:
                    readable.append((picture.item.key, picture.image))
            pictures = [image for _, image in readable]
            if not drawn_only and (said := notice(captioner, ask.model, pictures)):
                click.echo(said, err=True)
                drawn_only = True
            for record in _records(readable, ask, captioner, words):
                if as_json:
                    click.echo(json_text(record))
                else:
                    show.record(record)
            advance(len(batch))
    if failed:
        sys.exit(2)


def _records(
    batch: Sequence[tuple[str, Image]], ask: Ask, captioner: Captioner, words: WordOptions | None
) -> Iterator[dict[str, Any]]:
    """Yield a record for each image of a batch."""
    if not batch:
        return
    images = [image for _, image in batch]
    options: dict[str, Any] = {"max_new_tokens": ask.max_new_tokens, "batch_size": len(images)}
    scorer = False if words is None else words.scorer
    mitigated = captioner(images, ask.prompt, words=scorer, **options)
    plain = captioner(images, ask.prompt, plugins=(), **options) if ask.compare else None
    plugins = [plugin.describe() for plugin in captioner.plugins]
    for index, (name, _) in enumerate(batch):
        found = mitigated[index]
        record: dict[str, Any] = {
            "image": name,
            "caption": found.text,
            "tokens": found.tokens,
            "at_limit": found.at_limit,
        }
        if plain is not None:
            record["plain"] = plain[index].text
        if words is not None:
            record |= words.record(found)
        yield record | {"prompt": ask.prompt, "plugins": plugins}


def notice(captioner: Captioner, model: str, images: Sequence[Image]) -> str:
    """Say that a packaged model knows only its own scenes, where an image is not one of them."""
    from vlmheads.model.loading import packaged_models

    side = getattr(captioner.model.config.vision_config, "image_size", None)
    if model not in packaged_models() or all(image.size == (side, side) for image in images):
        return ""
    return (
        f"note: the {model} model knows only its own drawn scenes, not photographs; "
        "name another with --model, such as --model llava-hf/llava-1.5-7b-hf"
    )
