"""`vlmheads eval data`: where to get data, and what is on disk."""

from pathlib import Path

import click

from vlmheads_eval.commands import one_line_errors


@click.command("data")
@click.argument("name", required=False)
@click.option(
    "--data",
    "paths",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Check what is there: a folder, a file, or a data set in a hub cache.",
)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@one_line_errors
def show_data(name: str | None, paths: tuple[Path, ...], images: Path | None) -> None:
    """Say where to get the data of NAME, and check what is on disk."""
    from vlmheads.errors import VlmHeadsError
    from vlmheads_eval.benchmarks.catalogue import LISTINGS
    from vlmheads_eval.benchmarks.check import check
    from vlmheads_eval.benchmarks.show import digest_lines, say

    if name is None:
        if paths or images:
            raise VlmHeadsError("--data without a name", " or ".join(LISTINGS))
        say([f"{one}: {listing.title}" for one, listing in LISTINGS.items()])
        return
    if name not in LISTINGS:
        raise VlmHeadsError(f"data {name!r}", " or ".join(LISTINGS))
    if not paths:
        if images:
            raise VlmHeadsError("--images without --data", "both")
        listing = LISTINGS[name]
        say(
            [
                listing.title,
                *(f"from: {one}" for one in listing.where),
                *(f"files: {one}" for one in listing.files),
                f"licence: {listing.licence}",
                *(f"expected: {number} {one}" for one, number in listing.counts.items()),
                f"use: vlmheads {listing.command}",
                f"check: vlmheads eval data {name} --data ...",
            ]
        )
        return
    found = check(name, paths, images)
    say(
        [
            *(f"{one}: {number}" for one, number in found.counts.items()),
            *digest_lines(found.sha256),
            *(f"note: {one}" for one in found.notes),
        ]
    )
    if found.problems:
        raise VlmHeadsError("; ".join(found.problems))
    say(["nothing is missing" if not found.notes else "nothing else is missing"])
