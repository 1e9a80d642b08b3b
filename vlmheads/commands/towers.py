"""What `vlmheads detect --measure vision-heads` does: heads of the vision tower."""

from __future__ import annotations

from pathlib import Path

from vlmheads.caption import Captioner
from vlmheads.commands.measurement import Grid, Measurement, Options
from vlmheads.detect.vision_heads import vision_heads

_DISTANCE, _SPREAD = "attention distance", "spread of attention"
_REGISTER, _ARTEFACT = "attention on registers", "attention on artefacts"
_FOUND = "patches that are artefacts"
_LOCAL, _EVEN = 1.5, 0.95  # Patches; share of the entropy of even attention.


def tower_heads(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Measure what the heads of the vision tower attend to."""
    inputs = captioner.prepare(paths, options.prompt)
    found = vision_heads(captioner.model, inputs, provenance=options.about)
    maps = {
        _DISTANCE: found.distance,
        _SPREAD: found.spread,
        _REGISTER: found.register,
        _ARTEFACT: found.artefact,
    }
    return Measurement(maps, {_FOUND: found.artefacts.float().tolist()})


def tower_conclusion(_: Captioner, part: Measurement, __: Options) -> Measurement:
    """Lay out the blocks, and what artefacts mean for methods that look at the tower."""
    means = {name: found.mean() for name, found in part.maps.items()}
    blocks = part.maps[_DISTANCE].geometry.attention_layers
    rows = tuple(
        (
            str(block),
            *(float(means[name][block].mean()) for name in (_DISTANCE, _SPREAD)),
            int((means[_DISTANCE][block] < _LOCAL).sum()),
            int((means[_SPREAD][block] > _EVEN).sum()),
            *(100 * float(means[name][block].mean()) for name in (_REGISTER, _ARTEFACT)),
        )
        for block in blocks
    )
    columns = (
        *("block", "distance, patches", "spread", "local heads", "even heads"),
        *("on registers, %", "on artefacts, %"),
    )
    artefacts = sum(part.figures[_FOUND]) / len(part.figures[_FOUND])
    on_them = 100 * float(means[_ARTEFACT][list(blocks)].mean())
    answer = (
        f"{artefacts:.1f} patches per picture are artefacts and draw {on_them:.0f} % of the "
        "tower's attention: methods that leave such patches out or contrast with them (damro, "
        "paint's summary tokens) have something to act on."
        if artefacts
        else "No patch is an artefact: methods that look for such patches (damro, paint's summary "
        "tokens) act on ordinary ones here."
    )
    return Measurement(
        part.maps,
        part.figures,
        tables={"heads of the vision tower": Grid(columns, rows, 2)},
        answer=answer,
    )
