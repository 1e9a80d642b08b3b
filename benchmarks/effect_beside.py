"""Two or more models side by side, beside what others report of LLaVA-1.5-7B.

Run: python benchmarks/effect_beside.py docs/effect-tables.md OUT/effect.json OTHER/effect.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from effect_report import defaults, marked, put
from vlmheads_eval.report.tables import markdown
from vlmheads_eval.report.terminal import Rows

# Plugin -> CHAIR_S / CHAIR_I of LLaVA-1.5-7B on COCO with at most 512 tokens, and those of plain
# decoding in the same table; who reports them. Greedy search where nothing else is said.
REPORTED: Mapping[str, str] = {
    "adhh": "46.6/12.6 for 54.6/16.4 at 6 points less recall (third party, sampling)",
    "allpath": "26.6/7.2 (authors)",
    "damro": "6.0/3.6 for 12.4/7.2, short captions (authors)",
    "deco": "37.8/11.1 for 45.0/14.7 (authors)",
    "devils": "24.0/5.9 for 47.4/14.3 at 10 points less recall, 12 % repeat themselves "
    "(authors' captions, scored again)",
    "dola": "50.9/14.6 for 49.7/14.3 (VHR's authors)",
    "eah": "38.8/11.1 for 49.7/14.3 (VHR's authors)",
    "icd": "57.0/15.0 for 54.6/16.4 (third party, sampling)",
    "memvr": "46.6/13.0 (authors)",
    "pai": "22.8/7.0 for 46.4/12.1 (VISTA's authors); 41.2/10.4 for 54.6/16.4 at 4 points less "
    "recall (third party, sampling)",
    "paint": "17.8/4.0 for 47.2/12.6 at 18 points less recall, 52 % repeat themselves "
    "(authors' captions, scored again)",
    "vaf": "58.8/19.0 for 54.6/16.4 (third party, sampling)",
    "var": "52.5/14.2 for 48.6/13.5 (third party)",
    "vcd": "51.9/15.4 for 49.7/14.3 (VHR's authors)",
    "vhr": "33.3/9.7 for 49.7/14.3 (authors); 34.5/9.9 for 48.6/13.5 (third party)",
    "vista": "20.4/6.9 for 46.4/12.1 (authors); 36.0/12.1 (a user)",
}


def beside(results: Sequence[Mapping[str, Any]]) -> Rows:
    """Every plugin's default less the plain model, in points of object F1, for each model."""
    columns = [
        (Path(result["model"]).name, split, found)
        for result in results
        for split, found in result["splits"].items()
    ]
    rows = [["plugin", *(f"{model}, {split}" for model, split, _ in columns), "LLaVA-1.5-7B"]]
    named: dict[str, dict[str, str]] = {}
    for number, (_, _, found) in enumerate(columns):
        for name in defaults(found):
            cell = marked(found["differences"][name]["object_f1"])
            named.setdefault(name.partition(" ")[0], {})[str(number)] = cell
    for plugin in sorted(named):
        cells = [named[plugin].get(str(number), "") for number in range(len(columns))]
        rows.append([f"`{plugin}`", *cells, REPORTED.get(plugin, "")])
    return rows


@click.command()
@click.argument("document", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument(
    "saved", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
def main(document: Path, saved: tuple[Path, ...]) -> None:
    """Write the table into DOCUMENT from what benchmarks/effect.py SAVED of each model."""
    results = [json.loads(path.read_bytes()) for path in saved]
    text = put(document.read_text("utf-8"), "side by side", markdown(beside(results), ours=True))
    document.write_text(text, "utf-8")
    click.echo(document)


if __name__ == "__main__":
    main()
