"""The token inspector: what the model would have said at each token, and what changed it."""

from __future__ import annotations

import json
import math
from html import escape

from vlmheads.grounding.candidates import Candidates
from vlmheads_demo.services.result import Result, Selection
from vlmheads_demo.services.tokens import SHOWN, Tokens

# The image gain, in nats, at which a bar is as long as it gets.
MOST_GAIN = 6.0


def inspector(result: Result, selection: Selection) -> str:
    """Return the tokens of the selected caption, and the candidates at the selected one."""
    one = result.captions[selection.caption]
    tokens, token = one.measured.tokens, selection.shown_token(result)
    if tokens is None or token is None:
        return ""
    return (
        '<section class="vh-inspector"><h2>What else would it have said?</h2>'
        f"{_strip(result, selection, tokens, token)}"
        f"{_columns(result, selection, tokens, token)}"
        f'<p class="vh-small">{_told(result, selection, tokens, token)}</p></section>'
    )


def departures(result: Result, caption: int) -> dict[int, str]:
    """Return where other captions leave this one: token -> the name of the caption that does."""
    found: dict[int, str] = {}
    for other, one in enumerate(result.captions):
        # Every method is compared with plain, and plain with every method.
        if (other == 0) == (caption == 0):
            continue
        place = result.in_common(caption, other)
        tokens = result.captions[caption].measured.tokens
        same = one.caption.ids == result.captions[caption].caption.ids
        if not same and tokens is not None and place < len(tokens.ids):
            found.setdefault(place, one.name)
    return found


def _strip(result: Result, selection: Selection, tokens: Tokens, chosen: int) -> str:
    """Return the tokens as buttons, each with a bar of what the picture gives it."""
    one = result.captions[selection.caption]
    leaves = departures(result, selection.caption)
    wrong = [(m.start, m.end) for m in one.objects.mentions if m.correct is False]
    buttons = []
    for number, (text, span) in enumerate(zip(tokens.texts, tokens.spans, strict=True)):
        gain = tokens.gain(number)
        share = min(1.0, abs(gain) / MOST_GAIN)
        data: dict[str, object] = {
            "result": result.key,
            "caption": selection.caption,
            "token": number,
        }
        word = _word_at(result, selection.caption, number)
        data["word"] = selection.word if word is None else word
        classes = ["vh-token", "vh-loses" if gain < 0 else "vh-gains"]
        if any(span[0] < end and span[1] > start for start, end in wrong):
            classes.append("vh-invented")
        label = f"{text}: image gain {gain:+.1f} nats"
        if number in leaves:
            classes.append("vh-leaves")
            label += f"; {leaves[number]} goes another way from here"
        buttons.append(
            f'<button type="button" class="{" ".join(classes)}" style="--share:{share:.2f}" '
            f'tabindex="{0 if number == chosen else -1}" '
            f'data-select="{escape(json.dumps(data))}" data-group="token" '
            f'aria-pressed="{str(number == chosen).lower()}" title="{escape(label)}" '
            f'aria-label="{escape(label)}">{escape(text)}</button>'
        )
    note = (
        f' <span class="vh-fork" aria-hidden="true"></span> where '
        f"{escape(' and '.join(dict.fromkeys(leaves.values())))} goes another way"
        if leaves
        else ""
    )
    return (
        '<div class="vh-strip" role="group" aria-label="Tokens of the caption; the arrow keys '
        f'move">{"".join(buttons)}</div>'
        '<p class="vh-small vh-key"><span class="vh-gain-key" aria-hidden="true"></span> the '
        'picture makes it likelier <span class="vh-loss-key" aria-hidden="true"></span> less '
        f"likely{note}</p>"
    )


def _word_at(result: Result, caption: int, token: int) -> int | None:
    words = result.captions[caption].measured.words
    return next((n for n, word in enumerate(words) if word.first <= token < word.last), None)


def _applied(result: Result, selection: Selection, token: int) -> tuple[str, Candidates] | None:
    """Return the candidates under a method after the same beginning, and the method's name.

    They are those of the generation itself: of the selected caption, or, where plain is selected,
    of the first method whose caption begins in the same way up to here.
    """
    for number, one in enumerate(result.captions):
        found = one.caption.candidates
        same = number == selection.caption or (
            selection.caption == 0 and token <= result.in_common(0, number)
        )
        if number and found is not None and same and token < found.ids.shape[1]:
            return one.name, found
    return None


def _columns(result: Result, selection: Selection, tokens: Tokens, token: int) -> str:
    said = tokens.ids[token]
    columns = [
        _column("with the picture", tokens.seeing, tokens, token, said),
        _column("without it", tokens.blind, tokens, token, said),
    ]
    applied = _applied(result, selection, token)
    if applied is not None:
        name, found = applied
        columns.append(_column(name, found, tokens, token, said, tokens.seeing))
    return f'<div class="vh-candidates">{"".join(columns)}</div>'


def _column(
    title: str,
    found: Candidates,
    tokens: Tokens,
    token: int,
    said: int,
    before: Candidates | None = None,
) -> str:
    """Return the likeliest candidates as bars, with their change where there is a `before`."""
    rows = []
    ids = found.ids[0, token, :SHOWN].tolist()
    for candidate, chance in zip(ids, found.probability[0, token, :SHOWN].tolist(), strict=True):
        name = tokens.names.get(candidate) or f"#{candidate}"
        change = "" if before is None else _change(chance, before.of(0, token, candidate))
        rows.append(
            f'<li class="{"vh-said" if candidate == said else ""}" style="--share:{chance:.3f}">'
            f"<span>{escape(name)}</span><b>{_percent(chance)}</b>{change}</li>"
        )
    return f"<div><h3>{escape(title)}</h3><ol>{''.join(rows)}</ol></div>"


def _change(chance: float, before: float | None) -> str:
    """Return what a method did to a candidate: up, down, or nothing to speak of."""
    if before is None:
        return '<small class="vh-up">new</small>'
    if abs(chance - before) < 0.01:
        return "<small>=</small>"
    arrow, style = ("▲", "vh-up") if chance > before else ("▼", "vh-down")
    return f'<small class="{style}">{arrow} {_percent(before)}</small>'


def _percent(value: float) -> str:
    percent = 100 * value
    return "&lt;1 %" if percent < 1 else f"{percent:.0f} %"


def _told(result: Result, selection: Selection, tokens: Tokens, token: int) -> str:
    """Return what the picture does to the token, and what a method changed, as sentences."""
    gain, text = tokens.gain(token), escape(tokens.texts[token])
    if abs(gain) < 0.1:
        said = f"The picture hardly changes how likely <b>{text}</b> is here"
    else:
        times = math.exp(min(abs(gain), 30))
        shown = f"{times:.1f}" if times < 10 else f"{times:,.0f}"
        said = f"The picture makes <b>{text}</b> {shown} times {_likelier(gain)} here"
    said += f" (image gain {gain:+.1f} nats)."
    applied = _applied(result, selection, token)
    if applied is None:
        return said
    name, found = applied
    first, best = int(found.ids[0, token, 0]), int(tokens.seeing.ids[0, token, 0])
    if first == best:
        return f"{said} {escape(name)} keeps <b>{escape(tokens.names[best])}</b> in front."
    return (
        f"{said} {escape(name)} puts <b>{escape(tokens.names.get(first, ''))}</b> in front of "
        f"<b>{escape(tokens.names[best])}</b>."
    )


def _likelier(gain: float) -> str:
    return "likelier" if gain > 0 else "less likely"
