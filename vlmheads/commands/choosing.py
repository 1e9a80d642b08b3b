"""What `vlmheads detect --measure select` does: answers with marked words, and the heads chosen."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vlmheads.caption import Captioner
from vlmheads.commands.measurement import Grid, Measurement, Options
from vlmheads.commands.word_measures import marked
from vlmheads.detect import Answers, Selection, select
from vlmheads.detect.composition import Composition, composition
from vlmheads.detect.select import check_method
from vlmheads.errors import VlmHeadsError

_SHOWN = 12  # Edges of a table, and heads that are chosen for it.
_STRONG = 0.1


def answers(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Collect captions whose object words are marked."""
    if options.measure == "select":  # before anything is generated
        check_method(options.method, factor=options.factor, towards=options.towards)
    words = marked(captioner, paths, options)
    if words is None:
        return Measurement({})
    inputs = captioner.prepare(paths, options.prompt)
    return Measurement({}, data=[Answers(inputs, *words)])


def chosen(captioner: Captioner, part: Measurement, options: Options) -> Measurement:
    """Choose heads on all answers together."""
    found = select(
        captioner.model,
        required(part),
        options.objective,
        method=options.method,
        count=options.count,
        factor=options.factor,
        towards=options.towards,
        provenance=options.about,
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


def prompts(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Collect prompts, with captions whose words are marked where heads are to be chosen first."""
    if not options.heads:
        return answers(captioner, paths, options)
    return Measurement({}, data=[captioner.prepare(paths, options.prompt)])


def composed(captioner: Captioner, part: Measurement, options: Options) -> Measurement:
    """Measure which of the heads read from which."""
    heads, batches = options.heads, part.data
    if not heads:
        data = required(part)
        count = options.count or _SHOWN
        heads = select(captioner.model, data, options.objective, count=count).heads
        batches = [one.inputs for one in data]
    found = Composition.concatenate(
        [composition(captioner.model, batch, heads) for batch in batches]
    )
    error = found.strength.std(dim=0) / len(found.strength) ** 0.5
    place = {head: index for index, head in enumerate(found.heads)}
    rows = tuple(
        (
            f"{writer[0]}-{writer[1]}",
            f"{reader[0]}-{reader[1]}",
            strength,
            float(error[place[writer], place[reader]]),
        )
        for writer, reader, strength in found.edges()[:_SHOWN]
    )
    chosen = "those of --heads" if options.heads else f"gradient, {options.objective}"
    return Measurement(
        {},
        notes={
            "images": len(found.strength),
            "heads": " ".join(f"{layer}-{head}" for layer, head in found.heads),
            "chosen by": chosen,
        },
        tables={
            "which head reads from which": Grid(
                ("writer", "reader", "change of the reader's output", "standard error"), rows
            )
        },
        answer=_read_from(found),
        drawn=partial(_graph, found=found),
    )


def _read_from(found: Composition) -> str:
    """Tell which head the others read from most, to be tried alone."""
    mean = found.strength.mean(dim=0)
    writer = int(mean.sum(dim=1).argmax())
    readers = int((mean[writer] > _STRONG).sum())
    layer, head = found.heads[writer]
    if not readers:
        return (
            f"No head reads more than {_STRONG:.0%} of its output from another of these: what they "
            "do, they do apart, and each has to be switched off for itself."
        )
    return (
        f"{readers} of them read more than {_STRONG:.0%} of their output from head {layer}-{head}: "
        f"try it alone, --plugin 'adhh:heads=[\"{layer}-{head}\"],threshold=0.2', before all of "
        "them."
    )


def _graph(place: Path, found: Composition) -> None:
    from vlmheads.plotting.graph import plot_composition

    plot_composition(found, place)


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
