"""One caption at four strengths of a method: what turning the slider does."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads.registry import get_plugin
from vlmheads_demo.services.captioning import GenerationRequest
from vlmheads_demo.services.generation import CaptionEvent, stream_caption
from vlmheads_demo.services.methods import controls
from vlmheads_demo.services.result import CaptionObjects, caption_objects

# Shares of the chosen strength, counted from where the method does nothing.
FACTORS = (0.5, 1.0, 4.0, 16.0)


@dataclass(frozen=True)
class Strength:
    """The option of a method that says how strongly it acts.

    Args:
        option: its name.
        neutral: the value at which the method does nothing.
        low: the smallest value.
        high: the largest value.
    """

    option: str
    neutral: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class AtStrength:
    """A caption at one strength.

    Args:
        value: the value of the option.
        chosen: whether it is the one that the visitor chose.
        caption: the caption, as far as it has been generated.
        objects: the objects of a finished caption.
    """

    value: float
    chosen: bool
    caption: CaptionEvent
    objects: CaptionObjects | None = None


@dataclass(frozen=True, eq=False)
class Strengths:
    """A method at several strengths.

    Args:
        name: of the method.
        strength: its option.
        points: the strengths, weakest first.
    """

    name: str
    strength: Strength
    points: tuple[AtStrength, ...]

    @property
    def done(self) -> bool:
        """Whether every caption is finished."""
        return all(point.objects is not None for point in self.points)


def strength_of(plugins: tuple[Plugin, ...]) -> Strength | None:
    """Return the option that says how strongly a method acts.

    None for methods of several plugins, and for those without such an option in a range.
    """
    return _strength(plugins[0].name) if len(plugins) == 1 else None


def strength_option(name: str) -> str | None:
    """Return the name of the option that says how strongly a plugin acts, if it has one."""
    found = _strength(name)
    return None if found is None else found.option


@cache
def _strength(name: str) -> Strength | None:
    """Return the first option in a range that the neutral instance has at another value."""
    plugin = get_plugin(name)
    try:
        neutral = plugin.neutral()
    except (NotImplementedError, VlmHeadsError):
        return None
    defaults = {field.name: field.default for field in dataclasses.fields(plugin)}
    for control in controls(plugin):
        value = getattr(neutral, control.name)
        if control.kind != "slider" or isinstance(value, bool) or value is None:
            continue
        if value != defaults[control.name] and control.low is not None and control.high is not None:
            return Strength(control.name, float(value), control.low, control.high)
    return None


def strength_values(plugin: Plugin, strength: Strength) -> list[float]:
    """Return the strengths that are shown, weakest first: the chosen one, half of it, and more.

    Where the chosen one does nothing, shares of the range are shown.
    """
    chosen = float(getattr(plugin, strength.option))
    distance = chosen - strength.neutral
    if not distance:
        far = strength.high if strength.high != strength.neutral else strength.low
        distance = (far - strength.neutral) / max(FACTORS)
    whole = isinstance(getattr(plugin, strength.option), int)
    found = [strength.neutral + factor * distance for factor in FACTORS]
    found = [min(max(value, strength.low), strength.high) for value in found]
    found = [float(round(value)) if whole else float(f"{value:.4g}") for value in found]
    if not chosen - strength.neutral:
        found = [chosen, *found[:3]]
    return sorted(dict.fromkeys(found), key=lambda value: abs(value - strength.neutral))


def measure_strengths(
    request: GenerationRequest,
    plugins: tuple[Plugin, ...],
    *,
    run_lock: threading.Lock,
    stop: threading.Event,
) -> Iterator[Strengths]:
    """Yield the captions of a picture at several strengths as they are finished.

    Args:
        request: the picture, the prompt and how tokens are chosen.
        plugins: the method, of one plugin.
        run_lock: held for one generation at a time.
        stop: ends it after the current token when it is set.

    Raises:
        VlmHeadsError: a method without a strength, or what `attach` refuses.
    """
    strength = strength_of(plugins)
    if strength is None:
        names = ", ".join(plugin.name for plugin in plugins) or "no method"
        raise VlmHeadsError(f"{names}, which has no strength", "a method with a strength")
    (plugin,) = plugins
    chosen = float(getattr(plugin, strength.option))
    whole = isinstance(getattr(plugin, strength.option), int)
    points = [
        AtStrength(value, value == chosen, CaptionEvent())
        for value in strength_values(plugin, strength)
    ]
    yield Strengths(plugin.name, strength, tuple(points))
    for number, point in enumerate(points):
        value = int(point.value) if whole else point.value
        changed = dataclasses.replace(plugin, **{strength.option: value})
        *_, event = stream_caption(
            request.model.captioner,
            request.image,
            request.prompt,
            (changed,),
            request.decoding,
            run_lock=run_lock,
            stop=stop,
        )
        if stop.is_set():
            return
        objects = caption_objects(event.text, request.objects)
        points[number] = AtStrength(point.value, point.chosen, event, objects)
        yield Strengths(plugin.name, strength, tuple(points))
