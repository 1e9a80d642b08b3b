"""The page of each method: what it does, where, by which formula, how it is used, and what of it.

Everything on a page comes from docs/method_facts.py; nothing here is about one method.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence

from block import SITES, caption, drawing
from linking import cell, outside_links, prose
from method_facts import (
    cost,
    learned,
    measured,
    names,
    parts,
    presets,
    published,
    rivals,
    sites,
    strength,
)

from vlmheads.plugin import Plugin
from vlmheads.registry import Preset, get_plugin

UP = "../"  # From a page of a method to docs/.
FAMILY, SUFFIX = "LLaVA 1.5", "-llava15.json"
CHECKPOINT = "llava-hf/llava-1.5-7b-hf"
MODEL = "MODEL"
_LETTER = re.compile(r"(?<!\w)[^\W\d_Σ](?!\w)")


def method_page(name: str) -> str:
    """Return the page of a plugin."""
    plugin = get_plugin(name)
    said = parts(plugin)
    lines = [
        f"# {name}",
        "",
        f"**{prose(' '.join(said[''][0].split()), UP, name)}**",
        "",
        prose(plugin.paper, UP, name),
        "",
        figure(plugin),
        "",
        "## Formula",
        "",
        *_formula(said["Formula"], name),
        "## Use",
        "",
        *_use(name, plugin, " ".join(said.get("Needs", ()))),
        "## Evidence",
        "",
        *_evidence(name, said.get("Evidence", ())),
        "## Cost",
        "",
        *_cost(name, plugin, said.get("Cost", ())),
        "## Pitfalls",
        "",
        *_pitfalls(name, said),
        *_options(plugin),
        "",
        *_presets(name),
        "## Source",
        "",
        *_paragraphs([_raised(text) for text in said.get("Source", ())], name),
    ]
    return "\n".join(lines).rstrip() + "\n"


def figure(plugin: type[Plugin]) -> str:
    """Return the drawing of the sites of a method, with its caption."""
    lit = sites(plugin)
    drawn = drawing(lit, f"Where {plugin.name} acts")
    return (
        f'<figure class="sites">{drawn}<figcaption>{caption(lit)}</figcaption></figure>\n\n'
        f"[Where a method can act]({UP}methods.md#where-a-method-can-act)"
    )


def gallery() -> str:
    """Return the drawing of each site by itself, what acting there means, and who does."""
    lines = ['<div class="gallery" markdown="1">', ""]
    for site, (title, about) in reversed(SITES.items()):
        editing = [name for name in names() if sites(get_plugin(name)).get(site) == "edited"]
        if not editing:
            continue
        drawn = drawing({site: "edited"}, f"A method that acts on the {title}")
        links = ", ".join(f"[`{name}`](methods/{name}.md)" for name in editing)
        lines += [
            *('<div markdown="1">', "", f'<figure class="sites">{drawn}</figure>', ""),
            f"**{_raised(title)}.** {about} {'Used' if site == 'stream' else 'Edited'} by {links}.",
            *("", "</div>", ""),
        ]
    return "\n".join([*lines, "</div>"])


def _formula(paragraphs: Sequence[str], name: str) -> list[str]:
    """Return what follows the summary: indented blocks are formulas, the rest is prose."""
    lines = []
    for paragraph in paragraphs:
        if paragraph.startswith("    "):
            shown = "<br>".join(formula(line) for line in paragraph.splitlines())
            lines += [f'<p class="formula">{shown}</p>', ""]
        else:
            lines += _paragraphs([paragraph], name)
    return lines


def formula(text: str) -> str:
    """Return a line of a formula as HTML: letters slanted, indices below and powers above."""
    marked = html.escape(text.strip(), quote=False)
    marked = re.sub(r" {2,}", "&emsp; ", marked)
    marked = re.sub(r"\^\{([^}]*)\}", r"<sup>\1</sup>", marked)
    letter = r"((?<![\w&])[^\W\d_]'?)"
    marked = re.sub(letter + r"_(?:\{([^}]*)\}|\(([^)]*)\)|(\w+'?\w*))", _below, marked)
    pieces = re.split(r"(<[^>]*>|&\w+;)", marked)
    return "".join(
        piece if number % 2 else _LETTER.sub(r"<i>\g<0></i>", piece)
        for number, piece in enumerate(pieces)
    )


def _below(match: re.Match[str]) -> str:
    return f"{match[1]}<sub>{match[2] or match[3] or match[4]}</sub>"


def _raised(text: str) -> str:
    return text[0].upper() + text[1:]


def _paragraphs(paragraphs: Sequence[str], name: str) -> list[str]:
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += [prose(paragraph, UP, name), ""]
    return lines


def _use(name: str, plugin: type[Plugin], needs: str) -> list[str]:
    """Return how to attach a method, with the option that a reader would change, and a preset."""
    field = strength(plugin)
    settings = [f"{field.name}={field.default}"] if field else []
    if option := learned(name):
        settings.insert(0, f"{option}=FILE")
    asked = f"{name}:{','.join(settings)}" if settings else name
    if given := re.search(rf"`({re.escape(name)}:[^`]+)`", needs):
        asked = given[1]
    quoted = f"'{asked}'" if "[" in asked else asked
    lines = [
        "```python",
        f'with vlmheads.attach(model, "{asked}"):',
        "    output = model.generate(**inputs)",
        "```",
        "",
        "```shell",
        *([f"vlmheads learn {name} --model {MODEL} --data DATA --out FILE"] if option else []),
        f"vlmheads caption photo.jpg --model {MODEL} --plugin {quoted}",
        *_preset_lines(name),
        "```",
        "",
    ]
    if field:
        lines += [f"`{field.name}`: {cell(field.metadata['help'])}.", ""]
    return lines


def _preset_lines(name: str) -> list[str]:
    """Return the command line of a method's preset for LLaVA-1.5, where there is one."""
    mine = [found for found, preset in _of(name) if preset.family == FAMILY]
    first = f"{name}{SUFFIX}"
    if not mine or (first not in mine and len(mine) > 1):
        return []
    chosen = first if first in mine else mine[0]
    needs = presets()[chosen].learn
    before = [f"vlmheads presets install {chosen} --learned FILE"] if needs else []
    asked = "auto" if needs else chosen
    return [
        "# With the values that were published for LLaVA-1.5:",
        *before,
        f"vlmheads caption photo.jpg --model {CHECKPOINT} --plugin {asked}",
    ]


def _of(name: str) -> list[tuple[str, Preset]]:
    """Return the presets that a plugin is in."""
    return [
        (found, preset)
        for found, preset in presets().items()
        if name in {one.name for one in preset.plugins}
    ]


def _evidence(name: str, reported: Sequence[str]) -> list[str]:
    """Return what was measured, by whom, and what is only reported."""
    theirs, ours = list(published(name)), list(measured(name))
    lines = []
    if theirs:
        lines += [
            f"**Published captions**, scored again ([what they show]({UP}evidence.md)):",
            "",
            *_table(
                (
                    *("captions", "model", "images", "CHAIR_S", "recall"),
                    *("CHAIR_S at equal recall", "verdict"),
                ),
                theirs,
            ),
        ]
    if ours:
        lines += [
            f"**Measured here** on the [test bench]({UP}testbed.md), plain → with the method:",
            "",
            *_table(
                ("scenes", "run", "CHAIR_S", "recall", "CHAIR_S at equal recall", "verdict"),
                [
                    (
                        f"[{one.scenes}]({UP}{one.link})",
                        f"`{one.run}`",
                        *(one.hallucination, one.recall, one.change, one.verdict),
                    )
                    for one in ours
                ],
            ),
        ]
    missing = [
        *(() if theirs else ("nobody's captions of it were scored again",)),
        *(() if ours else ("no table of the test bench has it",)),
    ]
    if missing:
        text = " and ".join(missing)
        bare = "" if theirs or ours else "**No evidence of its own:** "
        lines += [f"{bare}{text if bare else text[0].upper() + text[1:]}.", ""]
    if theirs or ours:
        lines += [
            f"A [verdict]({UP}evaluation.md#the-verdict) is about hallucination at equal recall.",
            "",
        ]
    told = _paragraphs(reported, name)
    return [*lines, *([f"**Reported:** {told[0]}", *told[1:]] if told else [])]


def _cost(name: str, plugin: type[Plugin], said: Sequence[str]) -> list[str]:
    text = list(said) or [plugin.cost]
    text[0] = _raised(text[0])
    rows = list(cost(name))
    lines = _paragraphs(text, name)
    if not rows:
        return [*lines, f"It was not timed ([speed and memory]({UP}performance.md)).", ""]
    return [
        *lines,
        *_table(("setting", "model", "whole call", "decoding", "prefill", "memory"), rows),
        f"As a ratio to plain generation, so that 1.00 is free: [how it was timed]"
        f"({UP}performance.md#how-it-was-measured).",
        "",
    ]


def _pitfalls(name: str, said: dict[str, list[str]]) -> list[str]:
    """Return what has to be there, what is not as in the paper, and what it cannot be joined to."""
    points = []
    if option := learned(name):
        points.append(
            f"**Has to learn first:** `{option}` takes the file that [`vlmheads learn {name}`]"
            f"({UP}learn.md) makes of your model and images whose objects are known. It fits that "
            "model alone."
        )
    labels = {
        "Needs": "Needs",
        "Pitfalls": "Mind",
        "Our reading": "Our reading",
        "Deviations": "Not as in the paper or its code",
    }
    for label, shown in labels.items():
        if paragraphs := said.get(label):
            points.append(f"**{shown}:** {prose(' '.join(paragraphs), UP, name)}")
    if others := rivals(name):
        names = ", ".join(f"[`{other}`]({other}.md)" for other in others)
        points.append(
            f"**Cannot be attached beside** {names}: each contrasts the logits with a second "
            "stream of its own."
        )
    lines = [f"* {' '.join(point.split())}" for point in points]
    return [*(lines or ["None known."]), ""]


def _options(plugin: type[Plugin]) -> list[str]:
    fields = dataclasses.fields(plugin)
    if not fields:
        return ["It has no options."]
    rows = ["## Options", "", "| option | default | values | what it is |", "| --- " * 4 + "|"]
    for field in fields:
        about = field.metadata
        values = ""
        if about.get("choices"):
            values = ", ".join(f"`{choice}`" for choice in about["choices"])
        elif about.get("low") is not None or about.get("high") is not None:
            values = f"{about.get('low')} to {about.get('high')}"
        help_text = cell(about.get("help", ""))
        rows.append(f"| `{field.name}` | `{field.default}` | {values} | {help_text} |")
    return rows


def _presets(name: str) -> list[str]:
    rows = [
        (f"`{found}`", cell(preset.family), outside_links(cell(preset.source), UP))
        for found, preset in _of(name)
    ]
    if not rows:
        return []
    return ["## Presets", "", *_table(("preset", "family", "source"), rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    unbroken = (" → ", "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}")
    return [*(f"| {' | '.join(line)} |".replace(*unbroken) for line in lines), ""]
