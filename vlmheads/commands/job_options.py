"""Options of `vlmheads caption` that are about jobs and about how the model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FORMATS = ("jsonl", "metadata", "txt", "parquet", "webdataset")


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of captioning into a file or folder."""
    for option in (
        click.option(
            "--workers",
            default=4,
            show_default=True,
            type=click.IntRange(min=1),
            help="Threads that read images while the model writes.",
        ),
        click.option(
            "--token-budget",
            type=click.IntRange(min=1),
            help="With --out: tokens of a batch at most, prompts, images and --max-new-tokens "
            "counted; a batch holds fewer large images than small ones. [default: no limit]",
        ),
        click.option("--image-column", help="The column of images in parquet files."),
        click.option(
            "--retry-failed", is_flag=True, help="Try images again that failed in an earlier run."
        ),
        click.option(
            "--overwrite", is_flag=True, help="Drop the captions that there are, and start anew."
        ),
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            help="The folder that names in the output are relative to. [default: the innermost "
            "one that holds all images]",
        ),
        click.option(
            "--format",
            "kind",
            type=click.Choice(FORMATS),
            help="jsonl: a file, a line an image; metadata: metadata.jsonl of an ImageFolder; txt: "
            "a text file an image, beside it without --out; parquet, webdataset: files that hold "
            "images and captions. [default: jsonl for a name that ends so]",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="Write captions to a file FILE.jsonl, or to a folder with --format. What has a "
            "caption there is skipped, so that the same command goes on with a job.",
        ),
        click.option("--recursive", is_flag=True, help="Enter folders inside of folders."),
    ):
        command = option(command)
    return command


def loading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add how the model is loaded, beside its name."""
    for option in (
        click.option(
            "--attn",
            help="Attention of the model, such as sdpa or flash_attention_2. [default: "
            "transformers' choice]",
        ),
        click.option(
            "--quantization",
            help="bnb-4bit or bnb-8bit: pack the weights with bitsandbytes while they are read.",
        ),
        click.option(
            "--device-map",
            help="auto: spread the model over all accelerators, in place of --device.",
        ),
    ):
        command = option(command)
    return command
