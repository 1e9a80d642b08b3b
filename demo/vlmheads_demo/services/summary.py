"""What a run shows, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from vlmheads_demo.services.result import CaptionResult, Result


def summary(result: Result) -> str:
    """Return one sentence on what is seen: what the plain model invents, and what methods do."""
    plain, *others = result.captions
    if result.objects is None:
        parts = [_support(plain, "the plain model"), *(_support(one, one.name) for one in others)]
    else:
        parts = [_invention(plain), *(_change(plain, one) for one in others)]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _invention(plain: CaptionResult) -> str:
    invented = plain.objects.hallucinated or ()
    if invented:
        return f"the plain model invents {_with_articles(invented)}"
    if not plain.objects.named:
        return "the plain model names no object"
    return "the plain model names only what is there"


def _change(plain: CaptionResult, one: CaptionResult) -> str:
    before, after = set(plain.objects.hallucinated or ()), set(one.objects.hallucinated or ())
    new, gone = sorted(after - before), sorted(before - after)
    lost = sorted(set(plain.objects.named) - before - set(one.objects.named))
    name = one.name
    if new:
        text = f"{name} invents {_with_articles(new)}"
        text += " instead" if gone and not before & after else " as well" if before & after else ""
    elif gone:
        text = f"{name} does not"
        text += f" invent {_with_articles(gone)}" if before & after else ""
    elif before:
        text = f"{name} does the same"
    else:
        text = f"{name} invents nothing either"
    return text + (f", but also leaves out {_with_articles(lost)}" if lost else "")


def _support(one: CaptionResult, name: str) -> str:
    words = [word for word in one.measured.words if word.object is not None]
    weak = [word.text for word in words if word.score < one.measured.threshold]
    if not words:
        return f"{name} names no object that is looked for"
    if not weak:
        return f"the picture supports all {len(words)} object words of {name}"
    shown = ", ".join(f"“{word}”" for word in weak[:3])
    return f"{len(weak)} of {len(words)} object words of {name} have little support ({shown})"


# COCO's names of objects that take no article.
_PLURAL = frozenset(("scissors", "skis"))


def _with_articles(names: Sequence[str]) -> str:
    """Return "a horse", or "a horse, a cow and an apple"."""
    named = [
        name if name in _PLURAL else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
        for name in names
    ]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
