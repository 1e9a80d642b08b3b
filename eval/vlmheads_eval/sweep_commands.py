"""`vlmheads eval run`: a whole sweep from one file."""

from pathlib import Path

import click

from vlmheads_eval.refusal import one_line_errors


@click.command("run")
@click.argument("spec")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", help="In place of the spec's data, such as your COCO folder.")
@click.option("--num", type=click.IntRange(1), help="In place of the spec's number of images.")
@click.option("--seed", type=int, help="In place of the spec's, for another draw of images.")
@click.option("--device", help="Such as cpu or cuda:0.")
@one_line_errors
def run(
    spec: str, out: Path, data: str | None, num: int | None, seed: int | None, device: str | None
) -> None:
    """Run SPEC, a YAML file or the name of a shipped one, and report; call it again to resume."""
    import json
    from dataclasses import replace

    from vlmheads_eval.report_tables import print_comparison
    from vlmheads_eval.sweep import read_sweep, run_sweep

    sweep = read_sweep(spec)
    if data:
        sweep = replace(sweep, data=(data,))
    if num:
        sweep = replace(sweep, num=num)
    if seed is not None:
        sweep = replace(sweep, seed=seed)
    for folder in run_sweep(sweep, out, device=device):
        print_comparison(json.loads((folder / "comparison.json").read_text("utf-8")))
        click.echo(folder / "report.html")
