"""Words for what a scene shows: nouns with their count, spots, relations and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from vlmheads_testbed.categories import Look, drawable, with_article
from vlmheads_testbed.scenes import SIZE, Group, Scene

Item = TypeVar("Item")

#: Two centres differ along an axis when they are this share of the picture's side apart.
APART = 0.18
#: A group of several sprites is in one place when its centres are within this share of the side.
TOGETHER = 0.35
#: A sprite is large from this side in pixels, and small up to that.
LARGE, SMALL = 33, 24

_NUMBERS = {2: "two", 3: "three"}
_PAIRS = ("skis", "scissors")  # nouns that are counted in pairs
_OPPOSITE = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}
# Prepositions of places that are not "in".
_ON = ("street", "farm", "mountain", "savanna")
_AT = ("market", "station", "airport", "beach", "party")


def pick(items: Sequence[Item], random: np.random.Generator) -> Item:
    """Choose one of several, all alike."""
    return items[int(random.integers(len(items)))]


def upper(text: str) -> str:
    """Write the first letter large."""
    return text[0].upper() + text[1:]


def words(look: Look, random: np.random.Generator) -> tuple[str, str]:
    """Choose a singular and its plural for a drawing, mostly the usual ones."""
    return look.words[0] if random.random() < 0.75 else pick(look.words, random)


def noun(group: Group, random: np.random.Generator, adjective: str = "") -> str:
    """Return the noun phrase of a group: "a puppy", "two cats", "a pair of skis"."""
    one, many = words(group.look, random)
    return phrase(one, many, group.count, adjective)


def phrase(one: str, many: str, count: int, adjective: str = "") -> str:
    """Return a noun with its article or number, and perhaps an adjective before it."""
    before = f"{adjective} " if adjective else ""
    if one in _PAIRS:
        pairs = "pair" if count == 1 else "pairs"
        return f"{_NUMBERS.get(count, 'a')} {before}{pairs} of {one}"
    if one == "broccoli":
        return f"some {before}broccoli"
    return with_article(before + one) if count == 1 else f"{_NUMBERS[count]} {before}{many}"


def bare(group: Group, random: np.random.Generator) -> str:
    """Return the noun of a group without its article: "puppy", "cats"."""
    return words(group.look, random)[0 if group.count == 1 else 1]


def number(group: Group) -> str:
    """Return the count of a group as a word."""
    return {1: "one", **_NUMBERS}[group.count]


def are(group: Group) -> str:
    """Return the verb that goes with a group: "is" or "are"."""
    return "are" if is_plural(group) else "is"


def is_plural(group: Group) -> bool:
    """Tell whether a group's noun takes a plural verb."""
    return group.count > 1 or group.look.words[0][0] in _PAIRS


def listed(nouns: list[str]) -> str:
    """Join nouns: "a dog, a cat and two birds"."""
    return nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"


def located(place: str) -> str:
    """Say that something is in a place: "in a kitchen", "at a beach"."""
    preposition = "on" if place in _ON else "at" if place in _AT else "in"
    return f"{preposition} {with_article(place)}"


def is_together(group: Group) -> bool:
    """Tell whether the sprites of a group are near each other, so that it has one place."""
    x = [box[0] + box[2] / 2 for box in group.boxes]
    y = [box[1] + box[3] / 2 for box in group.boxes]
    return max(max(x) - min(x), max(y) - min(y)) <= TOGETHER * SIZE


def spot(group: Group) -> str:
    """Say where a group is: "in the top left corner", "on the right", "in the middle".

    Sprites that are far from each other have no one place.
    """
    if not is_together(group):
        return "in different places"
    x, y = (side / SIZE - 0.5 for side in group.centre)
    across = "left" if x < 0 else "right"
    along = "top" if y < 0 else "bottom"
    if max(abs(x), abs(y)) < 0.13:
        return "in the middle"
    if min(abs(x), abs(y)) > 0.22:
        return f"in the {along} {across} corner"
    return f"on the {across}" if abs(x) >= abs(y) else f"at the {along}"


def relation(group: Group, other: Group) -> str | None:
    """Say how a group lies to another: "to the left of", "above", "near"; None if not clear."""
    if not (is_together(group) and is_together(other)):
        return None
    x, y = ((a - b) / SIZE for a, b in zip(group.centre, other.centre, strict=True))
    if max(abs(x), abs(y)) < APART:
        return "near"
    if abs(abs(x) - abs(y)) < 0.05:
        return None
    if abs(x) > abs(y):
        return "to the left of" if x < 0 else "to the right of"
    return "above" if y < 0 else "below"


def opposite(name: str) -> str:
    """Return the relation that is false where this one is true."""
    return _OPPOSITE[name]


def beside(group: Group, scene: Scene, side: str) -> list[Group] | None:
    """Find the groups to the "left" or "right" of a group, or None where one is hardly so."""
    centre = group.centre[0] / SIZE
    sign = -1 if side == "left" else 1
    found = []
    for other in scene.groups:
        if other is group:
            continue
        distance = sign * (other.centre[0] / SIZE - centre)
        if not is_together(other) or 0.03 < distance < 0.12:
            return None
        if distance >= 0.12:
            found.append(other)
    return found


def size(group: Group) -> str | None:
    """Return "large" or "small" for a single sprite that is clearly one of them."""
    longest = max(max(box[2:]) for box in group.boxes)
    if group.count > 1 or SMALL < longest < LARGE:
        return None
    return "large" if longest >= LARGE else "small"


def absent_words(name: str, random: np.random.Generator) -> tuple[str, str]:
    """Choose the singular and plural under which to ask for a category that is not there."""
    return words(pick(drawable()[name].looks, random), random)
