"""A comparison as files: JSON, Markdown, CSV, LaTeX, and one self-contained HTML page."""

import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmheads.plotting.palette import style_sheet
from vlmheads.printable import printable
from vlmheads_eval.chair.measures import CaptionScore
from vlmheads_eval.chair.spans import mention_spans
from vlmheads_eval.compare.runs import RunScores
from vlmheads_eval.records import Caption
from vlmheads_eval.report.figures import Pictures, bar_chart, far_off, frontier_plot, no_pictures
from vlmheads_eval.report.tables import (
    comma_separated,
    differences,
    footnote,
    latex,
    markdown,
    power,
    shown,
    table,
    verdicts,
)
from vlmheads_eval.report.terminal import Rows

CATEGORIES = 12
FEW = 10  # Rates of categories with fewer mentions are not drawn.
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: var(--figure-text); margin: 0 auto;
  background: var(--figure-background); max-width: 1060px; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 8px; }
h3 { font-size: 15px; margin: 16px 0 4px; }
p.note { color: var(--figure-muted); margin: 4px 0 12px; max-width: 80ch; }
.figures { display: grid; gap: 20px;
  grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: 4px; }
figure svg { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--figure-grid); }
th { border-bottom: 2px solid var(--figure-muted); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
td:first-child { white-space: nowrap; }
td small { display: block; color: var(--figure-muted); white-space: nowrap; }
.worst { border-left: 3px solid var(--figure-grid); padding: 2px 0 2px 12px; margin: 10px 0;
  display: flex; gap: 14px; align-items: flex-start; }
.worst img { flex: none; width: 120px; }
.worst b { font-weight: 600; } .worst p { margin: 2px 0; white-space: pre-line; }
mark { background: none; color: var(--figure-unsupported); font-weight: 600;
  border-bottom: 2px solid; }
footer { color: var(--figure-muted); font-size: 13px; margin-top: 40px; word-break: break-all; }
"""


def escape(text: str) -> str:
    """Return text as HTML that says the same and does nothing."""
    return html.escape(printable(text))


def write_report(
    folder: Path,
    result: Mapping[str, Any],
    scores: Sequence[RunScores],
    pictures: Pictures = no_pictures,
) -> list[Path]:
    """Write the comparison into a folder in every format and return the files.

    Args:
        folder: created if needed; an earlier report in it is overwritten.
        result: of `compare_chair` or `compare_pope`.
        scores: the runs' captions, for figures and examples; none for POPE.
        pictures: thumbnails for the examples; see `pictures_of`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs, changes = table(result), differences(result)
    texts = {
        "comparison.json": json.dumps(result, indent=1) + "\n",
        "runs.md": "\n".join(
            [markdown(runs), markdown(changes), *_listed(result), footnote(result), ""]
        ),
        "runs.csv": comma_separated(runs),
        "differences.csv": comma_separated(changes),
        "runs.tex": latex(runs),
        "report.html": page(result, scores, pictures),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in texts]


def _listed(result: Mapping[str, Any]) -> list[str]:
    """Return the verdicts and the power lines as a Markdown list."""
    lines = [*verdicts(result), *power(result)]
    return [*(f"* {line}" for line in lines), ""] if lines else []


def page(
    result: Mapping[str, Any], scores: Sequence[RunScores], pictures: Pictures = no_pictures
) -> str:
    """Return the HTML page: tables, figures and, for captions, the worst ones."""
    names = [run["name"] for run in result["runs"]]
    body = [
        f"<h1>{'CHAIR' if result['task'] == 'chair' else 'POPE'}: {escape(', '.join(names))}</h1>",
        f'<p class="note">{escape(footnote(result))}</p>',
        *_lines(verdicts(result)),
        "<h2>Runs</h2>",
        html_table(table(result)),
    ]
    changes = differences(result)
    if changes:
        body += [
            "<h2>Against the baseline</h2>",
            '<p class="note">Differences in points with 95 % intervals. "S at equal recall" is the '
            "difference in CHAIR_S after the run with the higher recall was cut, sentence by "
            "sentence, to the other's: the verdict is on this one. "
            '"Detectable" is the smallest true difference that this number of images detects with '
            '80 % power, and "images needed" the number of images that would detect the observed '
            "one.</p>",
            html_table(changes),
            *_lines(power(result)),
        ]
    if result["task"] == "chair":
        near = [run for run in scores if run.name not in far_off(result)]
        body += frontiers(result, names) + _objects(near, names) + _worst(scores, pictures)
    inputs = "<br>".join(f"{escape(k)} {v[:12]}" for k, v in result.get("inputs", {}).items())
    body.append(f"<footer>Inputs and their SHA-256:<br>{inputs}</footer>")
    return document("vlmheads eval", body)


def document(title: str, body: Sequence[str]) -> str:
    """Return a self-contained HTML page of lines of HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{style_sheet()}{STYLE}</style></head>\n"
        f"<body>{chr(10).join(body)}</body></html>\n"
    )


def _lines(lines: Sequence[str]) -> list[str]:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<ul>{items}</ul>"] if lines else []


def frontiers(result: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the figures of hallucination against recall as lines of HTML, with a heading."""
    figures = (("CHAIRs", "CHAIR_S"), ("unique_hallucination", "unique-object rate"))
    return [
        "<h2>Hallucination against recall</h2>",
        f'<p class="note">Grey: {escape(names[0])}, truncated after 1, 2, ... sentences. '
        "Points below and to the right of the line are better than truncation."
        f"{_left_out(result)}</p>",
        '<div class="figures">',
        *(
            f"<figure><figcaption>{title}</figcaption>{frontier_plot(result, name, title)}</figure>"
            for name, title in figures
        ),
        "</div>",
    ]


def _left_out(result: Mapping[str, Any]) -> str:
    """Name the runs outside the figures, with their values."""
    places = [
        f"{escape(run['name'])} (recall {shown(run['overall']['recall'])}, "
        f"CHAIR_S {shown(run['overall']['CHAIRs'])})"
        for run in result["runs"]
        if run["name"] in far_off(result)
    ]
    return f" Far outside the figures: {', '.join(places)}." if places else ""


def _objects(scores: Sequence[RunScores], names: Sequence[str]) -> list[str]:
    positions = [names.index(run.name) for run in scores]
    wrong = {run.name: run.gallery.hallucinated for run in scores}
    seen = {run.name: run.gallery.mentioned for run in scores}
    frequent = [node for node, _ in sum(wrong.values(), Counter()).most_common(CATEGORIES)]
    if not frequent:
        return ["<h2>Hallucinated objects</h2><p>No run hallucinated an object.</p>"]
    counts: dict[str, list[float | None]] = {
        run.name: [100 * wrong[run.name][node] / max(run.gallery.captions, 1) for node in frequent]
        for run in scores
    }
    enough = [node for node in frequent if any(one[node] >= FEW for one in seen.values())]
    rates = {
        name: [100 * wrong[name][node] / one[node] if one[node] >= FEW else None for node in enough]
        for name, one in seen.items()
    }
    first = bar_chart(
        frequent,
        counts,
        "hallucinated mentions per 100 captions",
        "Most often hallucinated",
        positions,
    )
    second = f"<p>No run mentions one of these categories {FEW} times: too few for a share.</p>"
    if enough:
        unit = "% of the category's mentions"
        second = bar_chart(enough, rates, unit, "Hallucinated share", positions)
        second += f'<p class="note">No bar: fewer than {FEW} mentions.</p>'
    return [
        "<h2>Hallucinated objects</h2>",
        '<div class="figures">',
        f"<figure><figcaption>Most often hallucinated</figcaption>{first}</figure>",
        "<figure><figcaption>Share of mentions that are hallucinated</figcaption>"
        f"{second}</figure>",
        "</div>",
    ]


def _worst(scores: Sequence[RunScores], pictures: Pictures) -> list[str]:
    parts = ["<h2>Captions with the most hallucinated objects</h2>"]
    for run in scores:
        parts.append(f"<h3>{escape(run.name)}</h3>")
        parts += [_highlighted(*pair, pictures(pair[0].image_id)) for pair in run.gallery.worst]
    return parts


def _highlighted(caption: Caption, score: CaptionScore, picture: str | None) -> str:
    """Return a caption with its hallucinated words highlighted."""
    pieces = []
    done = 0
    for start, end in mention_spans(caption.text, score.hallucinated):
        if start >= done:
            pieces.append(escape(caption.text[done:start]))
            pieces.append(f"<mark>{escape(caption.text[start:end])}</mark>")
            done = end
    pieces.append(escape(caption.text[done:]))
    image = f'<img src="{picture}" alt="">' if picture else ""
    there = ", ".join(sorted(score.truth)) or "nothing"
    return (
        f'<div class="worst">{image}<div><b>image {escape(str(caption.image_id))}</b> '
        f"(present: {escape(there)})"
        f"<p>{''.join(pieces)}</p></div></div>"
    )


def html_table(rows: Rows) -> str:
    """Return rows as an HTML table, headings first; an interval goes below its figure."""
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    return (
        f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """Put an interval below its figure."""
    figure, bracket, interval = text.partition(" [")
    return f"{escape(figure)}<small>[{escape(interval)}</small>" if bracket else escape(text)
