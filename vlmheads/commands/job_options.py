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
            help="With --out: the most tokens in a batch, counting prompts, images and "
            "--max-new-tokens; a batch holds fewer large images than small ones. "
            "[default: no limit]",
        ),
        click.option("--image-column", help="The column of images in parquet files."),
        click.option(
            "--retry-failed", is_flag=True, help="Retry images that failed in an earlier run."
        ),
        click.option(
            "--overwrite", is_flag=True, help="Delete captions that exist already, and start again."
        ),
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            help="The folder to which names in the output are relative. [default: the innermost "
            "one that holds all images]",
        ),
        click.option(
            "--format",
            "kind",
            type=click.Choice(FORMATS),
            help="jsonl: one file with a line per image; metadata: metadata.jsonl of an "
            "ImageFolder; txt: a text file per image, beside it without --out; parquet, "
            "webdataset: files with images and captions. [default: jsonl if --out ends in .jsonl]",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="Write captions to a file FILE.jsonl, or to a folder with --format. Images that "
            "have a caption there are skipped, so the same command resumes a job.",
        ),
        click.option("--recursive", is_flag=True, help="Search subfolders, too."),
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
