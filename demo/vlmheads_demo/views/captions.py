"""The captions side by side with their words to select, object words marked, and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from vlmheads_demo.services.generation import CaptionEvent
from vlmheads_demo.services.result import CaptionResult, Result, Selection, comparison_rows
from vlmheads_demo.services.summary import summary
from vlmheads_demo.views.theme import overlay_url

# Punctuation that stays on the line of the word before it.
CLOSING = (".", ",", ";", ":", "!", "?", ")")


def placeholder(packaged: bool = True) -> str:
    """Return what is shown before the first run."""
    start = "Upload a picture or pick a scene" if packaged else "Upload a picture"
    return (
        '<div class="vh-empty"><p><b>Which words does the picture support?</b></p>'
        f"<p>{start}, choose a method, and press <i>Describe</i>. The "
        "plain caption appears next to the one under the method. Click a word to see where the "
        "model looked just before it, and what else it would have said.</p></div>"
    )


def error_card(message: str) -> str:
    """Return an error as a card that screen readers announce."""
    if message.partition(" ")[0].isalpha():  # and not the name of a file
        message = message[:1].upper() + message[1:]
    return (
        '<div class="vh-refused" role="alert"><span aria-hidden="true">!</span>'
        f"<p>{escape(message)}</p></div>"
    )


def partial_captions(names: Sequence[str], events: Sequence[CaptionEvent], stage: str) -> str:
    """Return captions that are still being generated."""
    cards = []
    for index, name in enumerate(names):
        event = events[index] if index < len(events) else None
        text = escape(event.text) if event else ""
        if event and event.done:
            note = _figures(event)
        elif event and event.seconds:
            note = f"{len(event.ids)} tokens"
            text += '<span class="vh-caret" aria-hidden="true"></span>'
        else:
            note, text = "waiting", '<span class="vh-soon"></span>'
        cards.append(_card(index, name, f'<p class="vh-text">{text}</p>', note))
    return f'<p class="vh-stage-note" role="status">{escape(stage)}</p>{_cards(cards)}'


def marked_captions(result: Result, selection: Selection | None) -> str:
    """Return what a run shows, its captions with their object words marked, and a legend."""
    cards = [
        _card(
            index,
            one.name,
            f'<p class="vh-text">{_words(result, index, selection)}</p>',
            _figures(one.caption),
        )
        for index, one in enumerate(result.captions)
    ]
    seen = f'<p class="vh-seen">{escape(summary(result))}</p>'
    return seen + _cards(cards) + _legend(result)


def _cards(cards: Sequence[str]) -> str:
    return f'<div class="vh-cards" data-count="{len(cards)}">{"".join(cards)}</div>'


def _card(index: int, name: str, body: str, note: str) -> str:
    title = escape(name) if index else "plain"
    return (
        f'<article class="vh-card vh-run-{index}"><header><h2>{title}</h2>'
        f'<span class="vh-note">{escape(note)}</span></header>{body}</article>'
    )


def _figures(event: CaptionEvent) -> str:
    end = ", stopped" if event.stopped else ", cut off" if event.at_limit else ""
    rate = f"{event.tokens_per_second:.0f} tokens/s"
    return f"{len(event.ids)} tokens{end} · {event.seconds:.2f} s · {rate}"


def _words(result: Result, index: int, selection: Selection | None) -> str:
    """Return the text of a caption with its words as buttons.

    The Tab key stops at those that name an object; the arrow keys go from word to word.
    """
    one = result.captions[index]
    text = one.caption.text
    parts, reached = [], 0
    for number, word in enumerate(one.measured.words):
        if word.start < reached:
            continue
        parts.append(escape(text[reached : word.start]))
        chosen = selection is not None and (selection.caption, selection.word) == (index, number)
        reached = word.end + (text[word.end : word.end + 1] in CLOSING)
        if word.object is None:
            button = _plain_word(result, index, number, chosen)
        else:
            button = _word(result, one, index, number, chosen)
        parts.append(f'<span class="vh-whole">{button}{escape(text[word.end : reached])}</span>')
    return "".join([*parts, escape(text[reached:])]) or "<i>(an empty caption)</i>"


def _word(result: Result, one: CaptionResult, index: int, number: int, chosen: bool) -> str:
    word = one.measured.words[number]
    low = word.score < one.measured.threshold
    correct = one.is_correct(number)
    classes = ["vh-word", "vh-low" if low else "vh-high"]
    truth, sign = "", ""
    if correct is not None:
        classes.append("vh-right" if correct else "vh-wrong")
        truth = ", in the picture" if correct else ", not in the picture"
        sign = "✓" if correct else "✗"
    support = "weakly supported" if low else "supported"
    label = f"{word.text}: grounding score {word.score:.2f}, {support}{truth}"
    about = {"result": result.key, "caption": index, "word": number}
    values, grid = one.measured.attention(number), result.prompt_measured.view.grid
    overlay = ""
    if values is not None and grid is not None:
        overlay = f' data-overlay="{overlay_url(values, grid)}"'
    return (
        f'<button type="button" class="{" ".join(classes)}" data-group="word"{overlay} '
        f'data-select="{escape(json.dumps(about))}" aria-pressed="{str(chosen).lower()}" '
        f'aria-label="{escape(label)}" title="{escape(label)}">{escape(word.text)}'
        f'<sup aria-hidden="true">{sign}{f"{word.score:.2f}".removeprefix("0")}</sup></button>'
    )


def _plain_word(result: Result, index: int, number: int, chosen: bool) -> str:
    """Return a word that names no object, as a button without marks."""
    word = result.captions[index].measured.words[number]
    about = {"result": result.key, "caption": index, "word": number}
    return (
        '<button type="button" class="vh-other" data-group="word" tabindex="-1" '
        f'data-select="{escape(json.dumps(about))}" aria-pressed="{str(chosen).lower()}">'
        f"{escape(word.text)}</button>"
    )


def _legend(result: Result) -> str:
    threshold = result.captions[0].measured.threshold
    items = [
        "<b>Click any word.</b>",
        f'<span class="vh-word vh-high">word<sup>.97</sup></span> supported (score ≥ '
        f"{threshold:.2f})",
        '<span class="vh-word vh-low">word<sup>.12</sup></span> weakly supported',
    ]
    if result.objects is not None:
        items.append('<span class="vh-word vh-right">word<sup>✓</sup></span> in the picture')
        items.append('<span class="vh-word vh-wrong">word<sup>✗</sup></span> invented')
    known = (
        f"<li class='vh-known'>In this scene: {escape(', '.join(result.objects)) or 'nothing'}</li>"
        if result.objects is not None
        else ""
    )
    return f'<ul class="vh-legend">{"".join(f"<li>{item}</li>" for item in items)}{known}</ul>'


def comparison_table(result: Result) -> str:
    """Return the comparison of the captions as a table with one column per caption."""
    rows = comparison_rows(result)
    head = "".join(f'<th scope="col">{_breakable(row["caption"])}</th>' for row in rows)
    lines = [
        ("objects named", [_names(row["objects"]) for row in rows]),
        ("invented", [_names(row["hallucinated"], "vh-bad") for row in rows]),
        ("missed", [_names(row["missed"]) for row in rows]),
        (
            "weakly supported words",
            [f"{row['weakly_supported']} of {row['object_words']}" for row in rows],
        ),
        ("length", [f"{row['words']} words, {row['tokens']} tokens" for row in rows]),
        ("repeated 4-grams", [f"{100 * row['repetition']:.0f} %" for row in rows]),
        (
            "time",
            [f"{row['seconds']:.2f} s, {row['tokens_per_second']:.0f} tokens/s" for row in rows],
        ),
    ]
    if result.objects is None:
        lines = [line for line in lines if line[0] not in ("invented", "missed")]
    body = "".join(
        f'<tr><th scope="row">{title}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for title, cells in lines
    )
    return (
        '<section class="vh-compare"><h2>Comparison</h2>'
        '<div class="vh-scroll" tabindex="0" role="region" aria-label="Comparison"><table>'
        f'<thead><tr><th scope="col"><span class="vh-hide">measure</span></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _breakable(name: str) -> str:
    """Return a method's name that breaks between its options, not inside of them."""
    return escape(name).replace(":", ":<wbr>").replace(",", ",<wbr>")


def _names(names: list[str] | None, style: str = "") -> str:
    if names is None:
        return "not known"
    if not names:
        return "none"
    text = escape(", ".join(names))
    return f'{len(names)} <span class="{style}">({text})</span>'
