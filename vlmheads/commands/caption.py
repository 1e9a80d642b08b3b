"""`vlmheads caption`: describe image files, plain or mitigated, or both side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmheads.commands.show import model_options
from vlmheads.errors import VlmHeadsError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmheads.caption import Captioner
    from vlmheads.commands.flags import WordOptions


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_options
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    help="A plugin, with options if any, such as vhr:alpha=1.5; may be repeated; none for the "
    "plain model; auto for what `vlmheads presets --for MODEL` recommends. [default: auto]",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Show the plain caption next to the mitigated one, with the objects marked that only "
    "one of them names.",
)
@click.option(
    "--flag", is_flag=True, help="Mark objects that the image does not support, with their scores."
)
@click.option(
    "--drop", is_flag=True, help="Leave out clauses whose object the image does not support."
)
@click.option(
    "--threshold",
    type=float,
    help="--flag, --drop: objects with a lower score. [default: the scorer's own]",
)
@click.option(
    "--scorer",
    type=click.Path(path_type=Path),
    help="--flag, --drop: a word scorer as JSON. [default: the model's own, or p/(p+p0)]",
)
@click.option("--prompt", help='What to ask. [default: "Describe the image."]')
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def caption(
    images: tuple[Path, ...],
    model: str,
    dtype: str,
    device: str | None,
    plugins: tuple[str, ...],
    compare: bool,
    flag: bool,
    drop: bool,
    threshold: float | None,
    scorer: Path | None,
    prompt: str | None,
    max_new_tokens: int,
    batch_size: int,
    as_json: bool,
) -> None:
    """Describe IMAGES: files, or folders of them.

    --flag and --drop measure on the plain model how far the image supports each object that the
    caption names: docs/words.md says how often they are right.

    An image that cannot be read is reported, the rest is done, and the exit code is 2.
    """
    from vlmheads.caption import PROMPT, Captioner
    from vlmheads.commands import show
    from vlmheads.commands.flags import WordOptions
    from vlmheads.images import find_images, left_out

    show.quiet_loading(model)
    acting = () if plugins == ("none",) else plugins or ("auto",)
    plain_because = ""
    if "auto" in acting:
        acting, plain_because = _recommended(model, acting)
    captioner = Captioner.from_pretrained(model, acting, dtype=dtype, device=device)
    if plain_because:
        click.echo(f"note: {plain_because}", err=True)
    word_options = WordOptions.of(
        captioner, flag=flag, drop=drop, threshold=threshold, scorer=scorer
    )
    found = list(find_images(images))
    if notice := left_out(images):
        click.echo(f"note: {notice}", err=True)
    job = _Job(captioner, prompt or PROMPT, max_new_tokens, compare, word_options)
    failed = drawn_only = False
    with show.progress(len(found)) as advance:
        for batch in _batches(found, batch_size):
            readable: list[tuple[Path, Image]] = []
            for path in batch:
                try:
                    readable.append(_read(path))
                except VlmHeadsError as error:
                    click.echo(f"error: {error}", err=True)
                    failed = True
            if not drawn_only and (notice := _notice(captioner, model, readable)):
                click.echo(notice, err=True)
                drawn_only = True
            for record in job.run(readable):
                if as_json:
                    click.echo(json.dumps(record, ensure_ascii=False))
                else:
                    show.record(record)
            advance(len(batch))
    if failed:
        sys.exit(2)


def _recommended(model: str, plugins: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return what is recommended for a model, and why nothing is where nothing is."""
    from vlmheads.model.loading import locate
    from vlmheads.recommended import recommended

    if len(plugins) > 1:
        raise VlmHeadsError("--plugin auto beside others", "either it or names of plugins")
    found = recommended(locate(model))
    return ((), found.reason) if found.preset is None else ((found.preset,), "")


class _Job:
    """What is done to each batch of images."""

    def __init__(
        self,
        captioner: Captioner,
        prompt: str,
        limit: int,
        compare: bool,
        word_options: WordOptions | None,
    ) -> None:
        self.captioner, self.prompt, self.limit, self.compare = captioner, prompt, limit, compare
        self.word_options = word_options
        self.plugins = [plugin.describe() for plugin in captioner.plugins]

    def run(self, batch: list[tuple[Path, Image]]) -> Iterator[dict[str, Any]]:
        """Yield a record for each image of a batch."""
        if not batch:
            return
        images = [image for _, image in batch]
        options: dict[str, Any] = {
            "max_new_tokens": self.limit,
            "batch_size": len(images),
        }
        words = False if self.word_options is None else self.word_options.scorer
        mitigated = self.captioner(images, self.prompt, words=words, **options)
        plain = self.captioner(images, self.prompt, plugins=(), **options) if self.compare else None
        for index, (path, _) in enumerate(batch):
            found = mitigated[index]
            record: dict[str, Any] = {
                "image": str(path),
                "caption": found.text,
                "tokens": found.tokens,
                "at_limit": found.at_limit,
            }
            if plain is not None:
                record["plain"] = plain[index].text
            if self.word_options is not None:
                record |= self.word_options.record(found)
            yield record | {"prompt": self.prompt, "plugins": self.plugins}


def _batches(found: list[Path | VlmHeadsError], size: int) -> Iterator[list[Path | VlmHeadsError]]:
    for start in range(0, len(found), size):
        yield found[start : start + size]


def _read(found: Path | VlmHeadsError) -> tuple[Path, Image]:
    from vlmheads.images import read_image

    if isinstance(found, VlmHeadsError):
        raise found
    return found, read_image(found)


def _notice(captioner: Captioner, model: str, images: list[tuple[Path, Image]]) -> str:
    """Say that a packaged model knows only its own scenes, where an image is not one of them."""
    from vlmheads.model.loading import packaged_models

    side = getattr(captioner.model.config.vision_config, "image_size", None)
    if model not in packaged_models() or all(image.size == (side, side) for _, image in images):
        return ""
    return (
        f"note: the {model} model knows only its own drawn scenes, not photographs; "
        "name another with --model, such as --model llava-hf/llava-1.5-7b-hf"
    )
