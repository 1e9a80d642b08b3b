"""A caption at four strengths of a method, side by side, with what each invents."""

from __future__ import annotations

from html import escape

from vlmheads_demo.services.generation import CaptionEvent
from vlmheads_demo.services.result import CaptionObjects
from vlmheads_demo.services.strengths import AtStrength, Strengths


def strengths_view(found: Strengths | None) -> str:
    """Return small multiples of the captions; nothing for a method without a strength."""
    if found is None:
        return ""
    cards = "".join(_card(found, point) for point in found.points)
    neutral = f"{found.strength.neutral:g} is no effect"
    return (
        '<section class="vh-strengths"><h2>The same picture at four strengths'
        f"<small>of {escape(found.name)} ({escape(found.strength.option)} {neutral}); move its "
        "slider and they follow</small></h2>"
        f'<div class="vh-multiples">{cards}</div></section>'
    )


def _card(found: Strengths, point: AtStrength) -> str:
    title = f"{found.strength.option} = {point.value:g}"
    note = "chosen" if point.chosen else ""
    if point.objects is None:
        body = '<p class="vh-said-at"><span class="vh-soon"></span></p>'
        verdict = "waiting"
    else:
        body = f'<p class="vh-said-at">{_marked(point.caption, point.objects)}</p>'
        verdict = _verdict(point.objects)
    return (
        f'<article class="vh-multiple{" vh-at-chosen" * point.chosen}"><header><h3>{title}</h3>'
        f"<span>{note}</span></header>{body}<footer>{verdict}</footer></article>"
    )


def _verdict(objects: CaptionObjects) -> str:
    if objects.hallucinated is None:
        return f"{len(objects.named)} objects, {objects.words} words"
    invented = len(objects.hallucinated)
    if invented:
        text = f'<b class="vh-bad">{invented} invented</b>'
    else:
        text = '<b class="vh-good">nothing invented</b>'
    return f"{text}, {len(objects.missed or ())} missed"


def _marked(caption: CaptionEvent, objects: CaptionObjects) -> str:
    """Return a caption with what it invents marked."""
    text, parts, reached = caption.text, [], 0
    for mention in objects.mentions:
        if mention.start < reached:
            continue
        name = {True: "vh-right", False: "vh-wrong", None: "vh-high"}[mention.correct]
        sign = {True: "✓", False: "✗", None: ""}[mention.correct]
        parts.append(escape(text[reached : mention.start]))
        parts.append(
            f'<span class="vh-word {name}">{escape(text[mention.start : mention.end])}'
            f'<sup aria-hidden="true">{sign}</sup></span>'
        )
        reached = mention.end
    return "".join([*parts, escape(text[reached:])]) or "<i>(an empty caption)</i>"
