"""What `vlmheads detect --measure select` does: answers with marked words, and the heads chosen."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from vlmheads.caption import Captioner
from vlmheads.commands.measurement import Grid, Measurement, Options
from vlmheads.commands.word_measures import marked
from vlmheads.detect import Answers, Selection, select
from vlmheads.errors import VlmHeadsError


def answers(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Collect captions whose object words are marked."""
    words = marked(captioner, paths, options)
    if words is None:
        return Measurement({})
    inputs = captioner.prepare(paths, options.prompt)
    return Measurement({}, data=[Answers(inputs, *words)])


def chosen(captioner: Captioner, part: Measurement, options: Options) -> Measurement:
    """Choose heads on all answers together."""
    given: dict[str, Any] = {"method": options.method, "count": options.count}
    if options.factor:
        given["factor"] = options.factor
    found = select(
        captioner.model,
        required(part),
        options.objective,
        towards=options.towards,  # type: ignore[arg-type]  # refused by name where it is neither
        provenance=options.about,
        **given,
    )
    scores, unit = found.scores, "radians" if found.method == "group" else "nats"
    alone = scores.mean()
    rows = tuple(
        (
            place,
            layer,
            head,
            float(alone[layer, head]),
            found.curve[place - 1] if len(found.curve) == len(found.heads) else None,
        )
        for place, (layer, head) in enumerate(found.heads, 1)
    )
    columns = ("", "layer", "head", f"alone, {unit}", "together")
    notes = {
        "method": found.method,
        "objective": options.objective,
        "objective of the plain model": f"{found.plain:.3f}",
        "cost": f"{found.passes} rows through the decoder, {found.seconds:.1f} s",
    }
    return Measurement(
        {"score": scores},
        notes=notes,
        tables={"heads to switch off": Grid(columns, rows)},
        answer=_what_to_do(found),
        drawn=partial(_draw, found=found),
    )


def required(part: Measurement) -> list[Answers]:
    """Return the answers that were collected.

    Raises:
        VlmHeadsError: captions of which none holds a marked word.
    """
    if not part.data:
        raise VlmHeadsError("captions without a grounded or hallucinated word", "at least one")
    return part.data


def _what_to_do(found: Selection) -> str:
    if not found.heads:
        return "No head raises the objective when it is switched off: leave all of them on."
    heads = ",".join(f'"{layer}-{head}"' for layer, head in found.heads)
    return (
        f"Try them on other images: --plugin 'adhh:heads=[{heads}],threshold=0.2'. Compare with "
        "as many random heads (`vlmheads eval predict --control`) before you rely on them."
    )


def _draw(place: Path, found: Selection) -> None:
    from vlmheads.plotting.maps import plot_head_map

    plot_head_map(found.scores, place, chosen=found.heads)
