"""The captions side by side, with every object word marked: how well it is supported, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from vlmheads_demo.drawing import overlay_address
from vlmheads_demo.selection import Selection
from vlmheads_demo.services.generation import Spoken
from vlmheads_demo.services.measurement import attention_of
from vlmheads_demo.services.result import Result, Said

CLOSING = (".", ",", ";", ":", "!", "?", ")")


def empty() -> str:
    """Return what stands in place of captions before the first run."""
    return (
        '<div class="vh-empty"><p><b>Which words does the picture support?</b></p>'
        "<p>Drop in a picture or take one of the scenes, choose a method, and press "
        "<i>Describe</i>. The plain caption appears beside the mitigated one; a click on a word "
        "shows where the model looked when it wrote it.</p></div>"
    )


def refused(message: str) -> str:
    """Return an error as a card that is read out when it appears."""
    return (
        '<div class="vh-refused" role="alert"><span aria-hidden="true">!</span>'
        f"<p>{escape(message)}</p></div>"
    )


def growing(names: Sequence[str], spoken: Sequence[Spoken], stage: str) -> str:
    """Return captions that are being written."""
    cards = []
    for index, name in enumerate(names):
        said = spoken[index] if index < len(spoken) else None
        text = escape(said.text) if said else ""
        if said and said.done:
            note = _figures(said)
        elif said and said.seconds:
            note = f"{len(said.ids)} tokens"
            text += '<span class="vh-caret" aria-hidden="true"></span>'
        else:
            note, text = "waiting", '<span class="vh-soon"></span>'
        cards.append(_card(index, name, f'<p class="vh-text">{text}</p>', note))
    return f'<p class="vh-stage-note" role="status">{escape(stage)}</p>{_cards(cards)}'


def finished(result: Result, selection: Selection | None) -> str:
    """Return the captions of a run with their words marked, and what the marks mean."""
    cards = [
        _card(index, said.name, f'<p class="vh-text">{_words(result, index, selection)}</p>',
              _figures(said.spoken))
        for index, said in enumerate(result.captions)
    ]  # fmt: skip
    return _cards(cards) + _legend(result)


def _cards(cards: Sequence[str]) -> str:
    return f'<div class="vh-cards" data-count="{len(cards)}">{"".join(cards)}</div>'


def _card(index: int, name: str, body: str, note: str) -> str:
    title = escape(name) if index else "plain"
    return (
        f'<article class="vh-card vh-run-{index}"><header><h2>{title}</h2>'
        f'<span class="vh-note">{escape(note)}</span></header>{body}</article>'
    )


def _figures(spoken: Spoken) -> str:
    end = ", stopped" if spoken.stopped else ", cut off" if spoken.at_limit else ""
    return f"{len(spoken.ids)} tokens{end} · {spoken.seconds:.2f} s · {spoken.rate:.0f} tokens/s"


def _words(result: Result, index: int, selection: Selection | None) -> str:
    """Return a caption's text with its object words as buttons."""
    said = result.captions[index]
    text = said.spoken.text
    parts, reached = [], 0
    for number, word in enumerate(said.support.words):
        if word.object is None or word.start < reached:
            continue
        parts.append(escape(text[reached : word.start]))
        chosen = selection is not None and (selection.caption, selection.word) == (index, number)
        # A mark behind the word stays on its line.
        reached = word.end + (text[word.end : word.end + 1] in CLOSING)
        marked = _word(result, said, index, number, chosen) + escape(text[word.end : reached])
        parts.append(f'<span class="vh-whole">{marked}</span>')
    return "".join([*parts, escape(text[reached:])]) or "<i>(the model said nothing)</i>"


def _word(result: Result, said: Said, index: int, number: int, chosen: bool) -> str:
    word = said.support.words[number]
    low = word.score < said.support.threshold
    right = is_right(said, number)
    classes = ["vh-word", "vh-low" if low else "vh-high"]
    truth, sign = "", ""
    if right is not None:
        classes.append("vh-right" if right else "vh-wrong")
        truth = ", in the picture" if right else ", not in the picture"
        sign = "✓" if right else "✗"
    support = "weakly supported" if low else "supported"
    label = f"{word.text}: grounding score {word.score:.2f}, {support}{truth}"
    about = {"result": result.key, "caption": index, "word": number}
    values = attention_of(said.support, number)
    overlay = ""
    if values is not None and result.picture.seen.grid:
        overlay = f' data-overlay="{overlay_address(values, result.picture.seen.grid)}"'
    return (
        f'<button type="button" class="{" ".join(classes)}" data-group="word"{overlay} '
        f'data-select="{escape(json.dumps(about))}" aria-pressed="{str(chosen).lower()}" '
        f'aria-label="{escape(label)}" title="{escape(label)}">{escape(word.text)}'
        f'<sup aria-hidden="true">{sign}{f"{word.score:.2f}".removeprefix("0")}</sup></button>'
    )


def is_right(said: Said, number: int) -> bool | None:
    """Tell whether a word's object is in the picture; None where nobody knows."""
    word = said.support.words[number]
    for mention in said.reading.mentions:
        if mention.start < word.end and mention.end > word.start:
            return mention.right
    return None


def _legend(result: Result) -> str:
    threshold = result.captions[0].support.threshold
    items = [
        f'<span class="vh-word vh-high">word<sup>.97</sup></span> supported (score ≥ '
        f"{threshold:.2f})",
        f'<span class="vh-word vh-low">word<sup>.12</sup></span> weakly supported (below '
        f"{threshold:.2f})",
    ]
    if result.objects is not None:
        items.append('<span class="vh-word vh-right">word<sup>✓</sup></span> in the picture')
        items.append('<span class="vh-word vh-wrong">word<sup>✗</sup></span> invented')
    known = (
        f"<p class='vh-known'>In this scene: {escape(', '.join(result.objects)) or 'nothing'}.</p>"
        if result.objects is not None
        else ""
    )
    return f'<ul class="vh-legend">{"".join(f"<li>{item}</li>" for item in items)}</ul>{known}'
