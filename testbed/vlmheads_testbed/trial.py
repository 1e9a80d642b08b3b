"""What `vlmheads testbed try` shows: what the embedded model says, plain and mitigated.

The scenes are the first ones of seed 0, on which nothing was chosen; see the preset's own evidence.
Those that are shown are the first on which the two captions differ, whichever of them is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlmheads_testbed.scenes import Scene, scene

PRESET = "vcd-embedded.json"
KINDS = {"test": "usual", "counterfactual": "unusual"}
SCENES, SHOWN = 12, 2  # of each split
WIDTH = 80
RESAMPLES = 10_000
RED_STRUCK, PLAIN_AGAIN = "\x1b[31;9m", "\x1b[0m"


@dataclass(frozen=True)
class Said:
    """A caption of a scene, with the start, end and name of each object that it names."""

    text: str
    objects: tuple[tuple[int, int, str], ...]
    there: frozenset[str]

    @property
    def invented(self) -> list[str]:
        """The objects that are named and are not there, each mention."""
        return [name for *_, name in self.objects if name not in self.there]

    @property
    def missed(self) -> list[str]:
        """The objects that are there and are not named, in alphabetical order."""
        return sorted(self.there - {name for *_, name in self.objects})


def sample() -> list[tuple[str, Scene]]:
    """Return the scenes with their splits."""
    return [(split, scene(split, 0, index)) for split in KINDS for index in range(SCENES)]


def tried(scenes: Sequence[Scene]) -> tuple[list[Said], list[Said]]:
    """Caption scenes plain and under the preset; the same scenes in the same order."""
    from vlmheads import Captioner
    from vlmheads.grounding.words import find_objects, require_finders

    require_finders()
    captioner = Captioner.from_pretrained("embedded", PRESET)
    images = [one.image for one in scenes]
    plain, mitigated = (
        [
            Said(caption.text, find_objects(caption.text), one.names)
            for caption, one in zip(
                captioner(images, batch_size=len(images), plugins=plugins), scenes, strict=True
            )
        ]
        for plugins in ((), captioner.plugins)
    )
    return plain, mitigated


def page(
    kinds: Sequence[str],
    plain: Sequence[Said],
    mitigated: Sequence[Said],
    *,
    name: str,
    colour: bool,
) -> str:
    """Return everything that is printed.

    Args:
        kinds: of each scene its split; `SHOWN` scenes of each are shown.
        plain: a caption per scene.
        mitigated: likewise.
        name: of the preset, before ".json".
        colour: whether invented objects are red and struck, rather than in brackets.
    """
    differ = [before.text != after.text for before, after in zip(plain, mitigated, strict=True)]
    lines = [f"{sum(differ)} of {len(kinds)} captions differ. The first {SHOWN} of each kind:", ""]
    for kind, label in KINDS.items():
        at = [number for number, one in enumerate(kinds) if one == kind and differ[number]]
        for number in at[:SHOWN]:
            there = ", ".join(sorted(plain[number].there))
            lines += _wrapped(f"In this {label} picture: {there}".split(" "), "", "  ")
            for title, said in (("plain", plain[number]), (name, mitigated[number])):
                lines += _shown(title, said, colour)
            lines.append("")
    return "\n".join([*lines, *totals(plain, mitigated, name), "", *NEXT]) + "\n"


def _shown(title: str, said: Said, colour: bool) -> Iterator[str]:
    """Yield a caption with its invented objects marked, and what it missed."""
    parts: list[str] = []
    done = 0
    for start, end, name in said.objects:
        if name in said.there:
            continue
        parts.append(said.text[done:start])
        inside = said.text[start:end]
        marked = f"{RED_STRUCK}{inside}{PLAIN_AGAIN}" if colour else f"[invented: {inside}]"
        parts.append(marked.replace(" ", "\N{NO-BREAK SPACE}"))
        done = end
    words = "".join([*parts, said.text[done:]]).split(" ")
    margin = " " * 15
    yield from _wrapped(words, f"  {title:<13}", margin)
    if said.missed:
        yield from _wrapped(f"(missed: {', '.join(said.missed)})".split(" "), margin, margin)


def _wrapped(words: Iterable[str], first: str, others: str) -> Iterator[str]:
    """Yield lines of at most `WIDTH` visible characters; a mark is not broken."""
    line, empty = first, True
    for word in words:
        if not empty and _length(line) + 1 + _length(word) > WIDTH:
            yield line.replace("\N{NO-BREAK SPACE}", " ")
            line, empty = others, True
        line += word if empty else f" {word}"
        empty = False
    yield line.replace("\N{NO-BREAK SPACE}", " ")


def _length(text: str) -> int:
    return len(text.replace(RED_STRUCK, "").replace(PLAIN_AGAIN, ""))


def totals(plain: Sequence[Said], mitigated: Sequence[Said], name: str) -> list[str]:
    """Count over all scenes: invented mentions, and the share of what is there that is named.

    With a 95 % interval of each difference, by 10,000 draws of scenes; a scene brings both of its
    captions along.
    """
    counts = np.array(
        [
            [len(before.invented), len(after.invented),
             len(before.there) - len(before.missed), len(after.there) - len(after.missed),
             len(before.there)]
            for before, after in zip(plain, mitigated, strict=True)
        ]
    )  # fmt: skip
    draws = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    sums = counts[draws].sum(axis=1)
    whole = counts.sum(axis=0)
    fewer = np.percentile(sums[:, 1] - sums[:, 0], [2.5, 97.5])
    named = np.percentile(100 * (sums[:, 3] - sums[:, 2]) / sums[:, 4], [2.5, 97.5])
    recall = 100 * whole[2:4] / whole[4]
    return [
        f"All {len(counts)} pictures, half of each kind, plain -> {name} (95 % interval):",
        f"  invented objects  {whole[0]} -> {whole[1]}, "
        f"difference {whole[1] - whole[0]:+d} ({fewer[0]:+.0f} to {fewer[1]:+.0f})",
        f"  objects found     {recall[0]:.0f} % -> {recall[1]:.0f} %, "
        f"difference {recall[1] - recall[0]:+.0f} points ({named[0]:+.0f} to {named[1]:+.0f})",
    ]


NEXT = (
    "A small model on drawn scenes: it says little about large ones. Where to go on:",
    "  make demo                      the same in a browser",
    "  vlmheads eval --help           measure on pictures whose objects are known",
    "  your own model, in Python:",
    "      import vlmheads",
    '      with vlmheads.attach(model, "vcd"):  # `vlmheads plugins` lists others',
    "          output = model.generate(**inputs, max_new_tokens=512)",
)
