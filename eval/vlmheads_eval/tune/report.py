"""The report of a search: terminal, Markdown, one self-contained HTML page, JSON and the preset."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console

from vlmheads.jobs.lines import finite
from vlmheads.model.anatomy import examine
from vlmheads.output import replace as rewrite
from vlmheads_eval.report.page import document, frontiers, html_table
from vlmheads_eval.report.tables import footnote, heading, markdown, p_value, shown, signed
from vlmheads_eval.report.terminal import Rows, print_rows, turned
from vlmheads_eval.tune.captioning import PLAIN
from vlmheads_eval.tune.outcome import Outcome, conclude, provenance
from vlmheads_eval.tune.preset import write_preset
from vlmheads_eval.tune.run import Found

SHOWN = ("object_f1", "CHAIRs", "CHAIRi", "recall", "words", "repetition", "at_limit")
MOST = 20  # Candidates in the terminal; the files list all.


def write_outcome(found: Found) -> Outcome:
    """Write the report, and the preset if there is one; only the first process writes."""
    outcome, settings = conclude(found), found.settings
    files = [settings.out / name for name in ("tune.json", "report.md", "report.html")]
    preset = settings.out / f"{settings.name}.json"
    if outcome.setting is not None:
        files.append(preset)
    outcome = replace(outcome, files=tuple(files))
    if found.captioning.processes.process_index != 0:
        return outcome
    rewrite(files[0], json.dumps(finite(record(found, outcome)), indent=1) + "\n")
    rewrite(files[1], as_markdown(found, outcome))
    rewrite(files[2], page(found, outcome))
    if outcome.setting is None:
        preset.unlink(missing_ok=True)  # Of an earlier call with --force.
        return outcome
    write_preset(
        preset,
        found.candidates[outcome.setting],
        model=settings.model,
        geometry=examine(found.captioning.encoder.captioner.model).geometry,
        recommended=outcome.recommended,
        evidence=outcome.evidence,
        note=provenance(found),
        versions=found.fingerprint["versions"],
    )
    return outcome


def record(found: Found, outcome: Outcome) -> dict[str, Any]:
    """Return everything that was found as plain values."""
    confirmed = found.confirmation
    return {
        "verdict": outcome.verdict,
        "recommended": outcome.setting if outcome.recommended else None,
        "evidence": dict(outcome.evidence),
        "settings": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(found.settings).items()
        },
        "fingerprint": dict(found.fingerprint),
        "plan": found.plan.to_dict(),
        "duplicates": found.parts.duplicates,
        "learned": dict(found.learned),
        "left_out": dict(found.left_out),
        "selection": {name: asdict(one) for name, one in found.results.items()},
        "confirmation": None if confirmed is None else dict(confirmed.result),
        "controls": {} if confirmed is None else dict(confirmed.controls),
        "judgements": {}
        if confirmed is None
        else {name: one.to_dict() for name, one in confirmed.judgements.items()},
        "speed": dict(found.speed),
    }


def confirmed_rows(found: Found) -> Rows:
    """Return the finalists beside the plain model, headings first."""
    if found.confirmation is None:
        return []
    aim = found.settings.aim
    head = ["setting", *(heading(name) for name in SHOWN)]
    head += [f"{heading(name)} at equal recall" for name in (aim.measure, aim.guard)]
    head += ["Holm p", "against its control", "time", "judgement"]
    rows = [head]
    methods = {one["name"]: one for one in found.confirmation.result["methods"]}
    for run in found.confirmation.result["runs"]:
        name = run["name"]
        units = ("" if one == "words" else "%" for one in SHOWN)
        row = [name, *(shown(run["overall"][m], u) for m, u in zip(SHOWN, units, strict=True))]
        if name == PLAIN:
            rows.append([*row, "", "", "", "", "1.00", "baseline"])
            continue
        method, control = methods[name], found.confirmation.controls.get(name)
        row += [signed(method["at_recall"][one]) for one in (aim.measure, aim.guard)]
        row += [
            p_value(method["holm"][f"at recall {aim.measure}"]),
            "-" if control is None else signed(control[aim.measure]),
            f"{found.speed[name]:.2f}",
            found.confirmation.judgements[name].reason,
        ]
        rows.append(row)
    return rows


def selected_rows(found: Found) -> Rows:
    """Return every candidate with its last round, those that got furthest first."""
    aim = found.settings.aim
    rows = [["setting", "round", "images", f"gain in {heading(aim.measure)}", "what became of it"]]

    def order(name: str) -> tuple[bool, int, float]:
        one = found.results[name]
        value = one.standing.value
        return not one.kept, -one.round, -(float("-inf") if value is None else value)

    for name in sorted(found.results, key=order):
        one = found.results[name]
        value = one.standing.value
        rows.append(
            [
                name,
                str(one.round),
                str(one.images),
                "-" if value is None else f"{100 * value:+.1f}",
                _became(one.kept, one.standing.out, value),
            ]
        )
    return rows


def _became(kept: bool, out: str, value: float | None) -> str:
    if kept:
        return "went on to confirm"
    return out or ("undefined" if value is None else "worse than the others")


def how(found: Found) -> list[str]:
    """Return how it was found, line by line."""
    lines = [*found.plan.lines()]
    if found.confirmation is not None:
        lines.append(footnote(found.confirmation.result))
        lines.append("The p values are corrected over the finalists by Holm's method.")
    if found.parts.duplicates:
        lines.append(f"{found.parts.duplicates} images left out: another has the same bytes.")
    return [*lines, provenance(found)]


def as_markdown(found: Found, outcome: Outcome) -> str:
    """Return the report as Markdown."""
    parts = [f"# {outcome.verdict}\n", *(f"* {k}: {v}" for k, v in outcome.evidence.items()), ""]
    if found.confirmation is not None:
        parts += ["## Confirmation\n", markdown(confirmed_rows(found))]
    if found.results:
        parts += ["## Selection\n", markdown(selected_rows(found))]
    if found.left_out:
        parts += ["## Left out\n", *(f"* {k}: {v}" for k, v in found.left_out.items()), ""]
    parts += ["## How\n", *(f"* {line}" for line in how(found)), ""]
    return "\n".join(parts)


def page(found: Found, outcome: Outcome) -> str:
    """Return the report as one HTML page without other files."""
    body = [f"<h1>{escape(outcome.verdict)}</h1>", *_items(outcome.evidence)]
    if found.confirmation is not None:
        result = found.confirmation.result
        body += ["<h2>Confirmation</h2>", html_table(confirmed_rows(found))]
        body += frontiers(result, [run["name"] for run in result["runs"]])
    if found.results:
        body += ["<h2>Selection</h2>", html_table(selected_rows(found))]
    if found.left_out:
        body += ["<h2>Left out</h2>", *_items(found.left_out)]
    lines = "".join(f"<li>{escape(line)}</li>" for line in how(found))
    body.append(f"<h2>How</h2><ul>{lines}</ul>")
    return document(f"vlmheads tune: {found.settings.model}", body)


def _items(told: Mapping[str, str]) -> list[str]:
    items = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in told.items())
    return [f"<ul>{items}</ul>"] if told else []


def print_outcome(found: Found, outcome: Outcome) -> None:
    """Print tables and verdict."""
    console = Console()
    chosen = selected_rows(found)
    if len(chosen) > 1:
        print_rows("Selection", chosen[: MOST + 1], console)
    if len(chosen) > MOST + 1:
        console.print(f"... and {len(chosen) - MOST - 1} more in {found.settings.out}/report.md")
    if found.confirmation is not None:
        print_rows("Confirmation", turned(confirmed_rows(found)), console)
    for name, text in outcome.evidence.items():
        if name != "verdict":
            console.print(f"{name}: {text}", markup=False, highlight=False)
    console.print(f"verdict: {outcome.verdict}", markup=False, highlight=False)
