"""A run as one self-contained HTML page: everything is inside, and it needs no server."""

from __future__ import annotations

import json
import re
from html import escape

from vlmheads import __version__
from vlmheads.plotting.palette import style_sheet
from vlmheads_demo.services.result import Result, Selection
from vlmheads_demo.services.strengths import Strengths
from vlmheads_demo.views import captions
from vlmheads_demo.views.head_map import head_map
from vlmheads_demo.views.inspector import inspector
from vlmheads_demo.views.strengths import strengths_view
from vlmheads_demo.views.theme import asset
from vlmheads_demo.views.word_view import picture_view

_STYLE = """
:root { color-scheme: light dark; --input-background-fill: transparent; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1.2rem; max-width: 1200px;
  background: var(--figure-background); color: var(--vh-text); }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1.05rem; } section { margin-top: .8rem; }
.vh-sets > div[hidden] { display: none; }
.vh-page-detail { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); }
.vh-page-detail > * { min-width: 0; }
"""
# A word that is selected brings up what belongs to it.
_SCRIPT = """
document.addEventListener("click", (event) => {
  const word = event.target.closest("[data-group=word]");
  if (!word) return;
  const { caption, word: number } = JSON.parse(word.dataset.select);
  const found = document.querySelector(`[data-set="${caption}-${number}"]`);
  if (!found) return;
  for (const set of document.querySelectorAll("[data-set]")) set.hidden = set !== found;
  for (const other of document.querySelectorAll("[data-group=word]")) {
    other.setAttribute("aria-pressed", String(other === word));
  }
});
document.addEventListener("change", (event) => {
  const { toggles, of, shows } = event.target.dataset;
  for (const node of document.querySelectorAll(of ?? shows ?? ":not(*)")) {
    if (toggles) node.classList.toggle(toggles, event.target.checked);
    else node.hidden = !event.target.checked;
  }
});
"""


def standalone_page(result: Result, strengths: Strengths | None = None) -> str:
    """Return a run as a page that shows every object word without a server.

    The key of the run is left out: whoever gets the page cannot ask the server for the run.
    """
    first = Selection.initial(result)
    sets = "".join(
        _set(result, selection, selection == first) for selection in _selections(result, first)
    )
    title = "vlmheads: which words does the picture support?"
    about = (
        f"{escape(result.model)}, prompt “{escape(result.prompt)}”, "
        f"{escape(json.dumps(dict(result.decoding)))}, vlmheads {__version__}"
    )
    page = asset("page.css")
    body = (
        f"<h1>{title}</h1><p class='vh-small'>{about}</p>"
        f"{captions.marked_captions(result, first)}<div class='vh-sets'>{sets}</div>"
        f"{strengths_view(strengths)}{captions.comparison_table(result)}"
    )
    body = body.replace(result.key, "saved")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{style_sheet()}{page}{_dark_variables(page)}{_STYLE}</style>"
        f"</head><body>{body}<script>{_SCRIPT}</script></body></html>"
    )


def _selections(result: Result, first: Selection) -> list[Selection]:
    """Return the object words of every caption; the first selection alone where there is none."""
    found = [
        Selection(caption, number)
        for caption, one in enumerate(result.captions)
        for number, word in enumerate(one.measured.words)
        if word.object is not None
    ]
    return found or [first]


def _set(result: Result, selection: Selection, shown: bool) -> str:
    """Return what belongs to one word; its buttons do nothing here, so they are made plain."""
    parts = (
        picture_view(result, selection),
        inspector(result, selection) + head_map(result, selection),
    )
    inside = "".join(f"<div>{_inert(part)}</div>" for part in parts)
    name = f"{selection.caption}-{selection.word}"
    return f'<div class="vh-page-detail" data-set="{name}"{" hidden" * (not shown)}>{inside}</div>'


def _inert(html: str) -> str:
    """Return HTML whose buttons and cells ask no server for anything."""
    html = re.sub(r'<button type="button" class="vh-(cursor|chip)[^>]*>.*?</button>', "", html)
    html = re.sub(r'<div class="vh-chips"[^>]*></div>', "", html)
    html = re.sub(r'<p class="vh-small">Click on a place.*?</p>', "", html)
    html = re.sub(
        r' (?:data-select|tabindex|aria-pressed|aria-selected|data-group)="[^"]*"', "", html
    )
    return html.replace('<button type="button"', "<span").replace("</button>", "</span>")


def _dark_variables(style: str) -> str:
    """Return the dark colours of the page for readers who ask for dark."""
    found = re.search(r"\n\.dark \{(.*?)\}", style, re.S)
    assert found is not None
    return f"@media (prefers-color-scheme: dark) {{ :root {{{found[1]}}} }}"
