"""What `vlmheads detect` can measure: one function per measure, from images to a Measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vlmheads.caption import Captioner
from vlmheads.commands.choosing import answers, chosen, composed, prompts
from vlmheads.commands.conditions import exit_conclusion, exits, sink_conclusion, sink_table
from vlmheads.commands.measurement import Measurement, Options
from vlmheads.commands.readings import captions, suppressed, sureness, visualness
from vlmheads.commands.several import collected, image_cache, position_bias
from vlmheads.commands.towers import tower_conclusion, tower_heads
from vlmheads.commands.word_measures import ATTRIBUTION_MAPS, by_head, words
from vlmheads.detect import (
    attention_sinks,
    correlation,
    divergence,
    text_dominance,
    visual_sinks,
)
from vlmheads.detect.dominance import THIRDS
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.output import save


def vhd(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Vision-aware head divergence."""
    inputs = captioner.prepare(paths, options.prompt)
    found = divergence(captioner.model, inputs, filtered=options.filtered, provenance=options.about)
    return Measurement({"VHD": found})


LARGEST = "largest φ of an image token"
SINKS = "image tokens that are sinks, mean of the layers"


def sinks(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Visual sinks, and the attention that is spent on them."""
    inputs = captioner.prepare(paths, options.prompt)
    found = visual_sinks(captioner.model, inputs, tau=options.tau, provenance=options.about)
    if options.overlay is not None:
        from vlmheads.images import read_image
        from vlmheads.plotting.maps import plot_sinks

        picture = read_image(paths[0])
        save(options.overlay, lambda place: plot_sinks(found, picture, path=place))
    layers = found.phi.shape[1]
    counts = found.visual_sinks.sum(dim=(1, 2)) / layers
    total = found.image.values.nansum(dim=(1, 2))
    on_sinks = (found.image.values * found.spent.values).nansum(dim=(1, 2))
    figures = {
        LARGEST: (found.phi * found.visual[:, None]).amax(dim=(1, 2)),
        SINKS: counts,
        "share of image attention on sinks": on_sinks / total.clamp(min=1e-12),
        "share of image-centric heads": found.centric.values.nanmean(dim=(1, 2)),
    }
    notes: dict[str, Any] = {
        "τ": options.tau,
        "width": found.massive.shape[1],
        "massive at the first token": list(found.dimensions()),
        "on record": "none" if found.on_record is None else list(found.on_record),
    }
    if found.agrees is not None:
        notes["those on record are among them"] = found.agrees
    maps = {
        "sink share": found.spent,
        "image attention": found.image,
        "image-centric": found.centric,
    }
    return Measurement(maps, {name: value.tolist() for name, value in figures.items()}, notes)


def dominance(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Text dominance of a short greedy answer."""
    inputs = captioner.prepare(paths, options.prompt)
    limit = options.max_new_tokens or 16
    found = text_dominance(
        captioner.model,
        inputs,
        provenance=options.about,
        max_new_tokens=limit,
        do_sample=False,
    )
    mdi, aei = found.mdi(), found.aei()
    figures = {
        f"{name}, {third} layers": values[:, index].tolist()
        for name, values in (("MDI", mdi), ("AEI of text", aei))
        for index, third in enumerate(THIRDS)
    }
    return Measurement({"image attention": found.image, "text attention": found.text}, figures)


def attention_sink(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Attention sinks among the first tokens, and dormant heads."""
    inputs = captioner.prepare(paths, options.prompt)
    found = attention_sinks(captioner.model, inputs, provenance=options.about)
    figures = {
        "Sink of the first token, ε = 0.3": found.metric()[:, 0],
        "largest Sink of a later token": found.metric()[:, 1:].amax(dim=1),
        "share of dormant heads (over 0.9 on the first token)": found.dormant()
        .float()
        .mean(dim=(1, 2)),
    }
    maps = {"first-token attention": found.first, "relative norm": found.loudness}
    return Measurement(maps, {name: value.tolist() for name, value in figures.items()})


def finished(captioner: Captioner, part: Measurement, options: Options) -> Measurement:
    """Add what can only be said of all images together, and what --out and --plot are to write.

    Raises:
        VlmHeadsError: attribution on images of which none has words of both kinds, or words of
            captions that name no object.
    """
    finish = FINISHERS.get(options.measure)
    if finish is not None:
        part = finish(captioner, part, options)
    if not part.maps:
        return part
    main = next(iter(part.maps.values()))
    return replace(
        part, saved=part.saved or main.save, drawn=part.drawn or partial(_draw, head_map=main)
    )


def _draw(place: Path, head_map: HeadMap) -> None:
    from vlmheads.plotting.maps import plot_head_map

    plot_head_map(head_map, place)


def _words_found(_: Captioner, part: Measurement, __: Options) -> Measurement:
    if not part.maps:
        raise VlmHeadsError("captions that name no object", "at least one object of COCO's")
    return part


def _sinks_found(_: Captioner, part: Measurement, __: Options) -> Measurement:
    return part if any(part.figures[SINKS]) else replace(part, conclusion=_no_sinks(part))


def _attributed(_: Captioner, part: Measurement, __: Options) -> Measurement:
    if "attribution" not in part.maps:
        raise VlmHeadsError(
            "no image whose caption holds a grounded and a hallucinated word", "at least one"
        )
    pearson, spearman = correlation(part.maps["attribution"], part.maps["attribution by gradient"])
    notes = {
        "ablation against gradient": f"Pearson {pearson:.3f}, Spearman {spearman:.3f}",
        "images with words of both kinds": part.maps["attribution"].images,
    }
    maps = {name: part.maps[name] for name in ATTRIBUTION_MAPS if name in part.maps}
    return Measurement(maps, part.figures, part.notes | notes)


def _no_sinks(part: Measurement) -> str:
    """Return the sentence that takes the place of tables of zeros."""
    tau, width, largest = part.notes["τ"], part.notes["width"], max(part.figures[LARGEST])
    if largest:
        images = f"{len(part.figures[SINKS])} image{'s' * (len(part.figures[SINKS]) != 1)}"
        return (
            f"No image token is a sink in {images}: the largest φ of one is {largest:.1f}, and a "
            f"sink has at least τ = {tau:g}."
        )
    bound = f", and one of width {width} cannot exceed φ = {width**0.5:.1f}" * (tau > width**0.5)
    return (
        f"This model has no sinks at τ = {tau:g}: no dimension of its states is massive at the "
        f"first token{bound}; --tau lowers τ."
    )


MEASURES: dict[str, Callable[[Captioner, list[Path], Options], Measurement]] = {
    "vhd": vhd,
    "sinks": sinks,
    "dominance": dominance,
    "attention-sink": attention_sink,
    "attribution": by_head,
    "words": words,
    "select": answers,
    "composition": prompts,
    "sink-table": sink_table,
    "token-exit": exits,
    "position-bias": collected,
    "cache-heads": collected,
    "vision-heads": tower_heads,
    "visualness": captions,
    "overconfidence": sureness,
}
FINISHERS: dict[str, Callable[[Captioner, Measurement, Options], Measurement]] = {
    "sinks": _sinks_found,
    "attribution": _attributed,
    "words": _words_found,
    "select": chosen,
    "composition": composed,
    "sink-table": sink_conclusion,
    "token-exit": exit_conclusion,
    "position-bias": position_bias,
    "cache-heads": image_cache,
    "vision-heads": tower_conclusion,
    "visualness": visualness,
    "overconfidence": suppressed,
}
