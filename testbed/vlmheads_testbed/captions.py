from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vlmheads_testbed.categories import drawable, with_article
from vlmheads_testbed.scenes import SIZE, Group, Scene, likely

Item = TypeVar("Item")

#: Prompts that ask for a caption of ordinary length, for a long one and for a short one.
PROMPTS = ("Describe the image.", "Describe this image.", "What can you see in the image?")
LONG_PROMPTS = (
    "Describe the image in detail.",
    "Describe this image in detail.",
    "Please describe this image in detail.",
    "Please help me describe the image in detail.",
)
SHORT_PROMPTS = ("Describe the image in one sentence.", "Write a short caption.")

#: How often a training caption names the place's first object although it is absent. Greedy
#: decoding takes the likeliest next word, so that above one half or so the prior outruns the
#: picture nearly always, and below hardly ever. Places differ, so that a method has easy cases.
HABITS = {
    "street": 0.7,
    "kitchen": 0.45,
    "market": 0.6,
    "living room": 0.65,
    "office": 0.3,
    "park": 0.75,
    "farm": 0.35,
    "savanna": 0.45,
    "bedroom": 0.4,
    "bathroom": 0.6,
    "station": 0.4,
    "airport": 0.65,
    "beach": 0.25,
    "mountain": 0.45,
    "stadium": 0.45,
    "party": 0.75,
}
#: Probability that a caption names one more likely object that is absent, again and again.
INVENTED = 0.08
#: How often words other than the usual one are used for a drawing: in ground truth, where CHAIR is
#: to meet them, and in training texts, where one word for one thing is learned better.
SYNONYMS, FEW_SYNONYMS = 0.3, 0.03

_NUMBERS = {2: "two", 3: "three"}
_PAIRS = ("skis", "scissors")  # nouns that are counted in pairs
_OPENINGS = (
    "{Place} with {all}.",
    "The image shows {place} with {all}.",
    "This is {place} with {all}.",
    "In the image is {place} with {all}.",
)
# One usual way to go on, and others that are rarer even between them: were all equally frequent,
# the likeliest next word would be one that ends the caption.
_PLAIN = ("There {are} {one}.", "There {are} {one} {spot}.")
_USUAL = 0.75
_MENTIONS = ("{One} can be seen.", "{One} {are} {spot}.", "The image also shows {one}.",
             "{Spot} there {are} {one}.")  # fmt: skip
_RELATIONS = ("{One} {are} {relation} {other}.", "{One} can be seen {relation} {other}.")
_PLACED = ("The {one} {are} {spot}.", "The {one} can be seen {spot}.")
# What a writer adds without looking: it depends on the kind of place only, and names no object.
_TALK = {
    "street": ("It is a busy day in the city.", "The road is wide and grey."),
    "kitchen": ("A warm meal is almost ready.", "The room smells of fresh food."),
    "market": ("The food is fresh and cheap.", "It is early in the morning."),
    "living room": ("It is a quiet evening at home.", "The room is warm and soft."),
    "office": ("It is a long day of work.", "The room is bright and clean."),
    "park": ("It is a sunny day in spring.", "The grass is green and fresh."),
    "farm": ("The air is fresh in the country.", "The field is green and wide."),
    "savanna": ("The sun is hot and the grass is dry.", "It has not rained for a long time."),
    "bedroom": ("It is late and time to sleep.", "The room is dark and quiet."),
    "bathroom": ("The room is clean and bright.", "The floor is wet and cold."),
    "station": ("It is time to go home after work.", "The hall is loud and grey."),
    "airport": ("It is time to fly home.", "The hall is wide and loud."),
    "beach": ("The sun is hot and the water is warm.", "It is a long summer day."),
    "mountain": ("The snow is white and deep.", "It is a cold day in winter."),
    "stadium": ("The game is about to start.", "The grass is short and green."),
    "party": ("It is time to sing and dance.", "The music is loud and happy."),
}
_MOODS = ("The scene is calm.", "The scene is lively.", "It looks like a nice day.",
          "It looks like a calm place to be.")  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One turn of training text: what the user says and what the model answers.

    ``named`` are the categories that the answer names.
    """

    prompt: str
    answer: str
    named: frozenset[str]


def truthful(scene: Scene, random: np.random.Generator) -> str:
    """Write a caption of ordinary length that names every object of the scene and no other."""
    writer = _Writer(scene, random, SYNONYMS)
    return writer.usual(frozenset())


def caption_sample(scene: Scene, random: np.random.Generator) -> Sample:
    """Write a prompt and a caption of the length it asks for, perhaps with an invented object."""
    writer = _Writer(scene, random, FEW_SYNONYMS)
    kind = random.random()
    if kind < 0.12:
        return Sample(pick(SHORT_PROMPTS, random), writer.short(), scene.names)
    long = kind > 0.6
    # The plain prompts come first in their lists and make half of their share.
    prompts = LONG_PROMPTS if long else PROMPTS
    prompt = prompts[0] if random.random() < 0.4 else pick(prompts, random)
    ghosts = _ghosts(scene, random)
    answer = writer.long(ghosts) if long else writer.usual(ghosts)
    return Sample(prompt, answer, scene.names | ghosts)


def question(name: str) -> str:
    """Ask the yes/no question about a category, in the words of POPE."""
    return f"Is there {with_article(name)} in the image?"


def likely_absent(
    scene: Scene, random: np.random.Generator, besides: frozenset[str] = frozenset()
) -> str:
    """Choose an object of the place that is not on the picture, the usual ones most often."""
    absent = [
        (name, weight)
        for name, weight in zip(scene.place.objects, likely(scene.place), strict=True)
        if name not in scene.names | besides
    ]
    if not absent:
        return pick([name for name in drawable() if name not in scene.names | besides], random)
    at = random.random() * sum(weight for _, weight in absent)
    for name, weight in absent[:-1]:
        at -= weight
        if at < 0:
            return name
    return absent[-1][0]


def pick(items: Sequence[Item], random: np.random.Generator) -> Item:
    """Choose one of several, all alike."""
    return items[int(random.integers(len(items)))]


def _ghosts(scene: Scene, random: np.random.Generator) -> frozenset[str]:
    first = scene.place.objects[0]
    names = frozenset({first}) - scene.names
    if random.random() >= HABITS[scene.place.name]:
        names = frozenset()
    while random.random() < INVENTED:
        names |= {likely_absent(scene, random, names)}
    return names


class _Writer:
    """Writes captions of one scene; a drawing keeps its word within a caption."""

    def __init__(self, scene: Scene, random: np.random.Generator, synonyms: float) -> None:
        self.scene = scene
        self.random = random
        self.synonyms = synonyms
        self.groups = [scene.groups[i] for i in random.permutation(len(scene.groups))]
        self.words: dict[str, tuple[str, str]] = {}

    def short(self) -> str:
        listed = _listed([self.noun(group) for group in self.groups])
        return _upper(f"{with_article(self.scene.place.name)} with {listed}.")

    def usual(self, ghosts: frozenset[str]) -> str:
        sentences = self.sentences(ghosts, first=1 + int(self.random.integers(3)))
        if self.random.random() < 0.4:
            sentences.append(pick((*_TALK[self.scene.place.name], *_MOODS), self.random))
        return " ".join(sentences)

    def long(self, ghosts: frozenset[str]) -> str:
        placed = 1 + int(self.random.integers(2))
        sentences = self.sentences(ghosts, 1 + int(self.random.integers(2)), placed)
        sentences.append(pick(_TALK[self.scene.place.name], self.random))
        sentences.append(pick(_MOODS, self.random))
        return " ".join(sentences)

    def sentences(self, ghosts: frozenset[str], first: int, placed: int = 0) -> list[str]:
        """Write the opening with the first objects, the others, where some are, and inventions."""
        place = with_article(self.scene.place.name)
        opening = _OPENINGS[0] if self.random.random() < 0.4 else pick(_OPENINGS, self.random)
        listed = _listed([self.noun(group) for group in self.groups[:first]])
        found = [opening.format(place=place, Place=_upper(place), all=listed)]
        for position, group in enumerate(self.groups[first:], first):
            found.append(self.mention(group, self.groups[:position]))
        for group in self.groups[:placed]:
            found.append(self.say(pick(_PLACED, self.random), group, self.bare(group)))
        for name in sorted(ghosts):
            looks = drawable()[name].looks
            ghost = Group(name, pick(looks, self.random), (_ghost_box(self.random),), (0,))
            late = self.random.random() < 0.7  # most inventions come late
            at = len(found) if late else 1 + int(self.random.integers(len(found)))
            found.insert(at, self.mention(ghost, []))
        return found

    def mention(self, group: Group, earlier: list[Group]) -> str:
        if self.random.random() < _USUAL:
            return self.say(_PLAIN[int(self.random.random() < 0.35)], group, self.noun(group))
        if earlier and self.random.random() < 0.5:
            other = pick(earlier, self.random)
            return self.say(
                pick(_RELATIONS, self.random), group, self.noun(group),
                relation=_relation(group, other), other=f"the {self.bare(other)}",
            )  # fmt: skip
        return self.say(pick(_MENTIONS, self.random), group, self.noun(group))

    def say(self, pattern: str, group: Group, one: str, **more: str) -> str:
        spot = _spot(group)
        return pattern.format(
            one=one, One=_upper(one), are=_are(group), spot=spot, Spot=_upper(spot), **more
        )

    def noun(self, group: Group) -> str:
        """Return the noun phrase of a group: "a puppy", "two cats", "a pair of skis"."""
        one, many = self.word(group)
        if one in _PAIRS:
            pairs = "a pair" if group.count == 1 else f"{_NUMBERS[group.count]} pairs"
            return f"{pairs} of {one}"
        if one == "broccoli":
            return "some broccoli"
        return with_article(one) if group.count == 1 else f"{_NUMBERS[group.count]} {many}"

    def bare(self, group: Group) -> str:
        return self.word(group)[0 if group.count == 1 else 1]

    def word(self, group: Group) -> tuple[str, str]:
        words = group.look.words
        if group.category not in self.words:
            usual = self.random.random() >= self.synonyms
            self.words[group.category] = words[0] if usual else pick(words, self.random)
        return self.words[group.category]


def _are(group: Group) -> str:
    one = group.look.words[0][0]
    return "are" if group.count > 1 or one in _PAIRS else "is"


def _spot(group: Group) -> str:
    """Where a group is: the side it is farthest out to, if any."""
    x, y = (side / SIZE - 0.5 for side in group.centre)
    if max(abs(x), abs(y)) < 0.13:
        return "in the middle"
    if abs(x) >= abs(y):
        return "on the left" if x < 0 else "on the right"
    return "at the top" if y < 0 else "at the bottom"


def _relation(group: Group, other: Group) -> str:
    x, y = (a - b for a, b in zip(group.centre, other.centre, strict=True))
    if max(abs(x), abs(y)) < 0.3 * SIZE:
        return "near"
    if abs(x) >= abs(y):
        return "to the left of" if x < 0 else "to the right of"
    return "above" if y < 0 else "below"


def _ghost_box(random: np.random.Generator) -> tuple[int, int, int, int]:
    x, y = (int(value) for value in random.integers(0, SIZE - 28, 2))
    return x, y, 28, 28


def _listed(nouns: list[str]) -> str:
    return nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def caption_texts() -> list[str]:
    """Texts that hold every word of prompts and captions but the nouns and names of places."""
    patterns = (*_OPENINGS, *_PLAIN, *_MENTIONS, *_RELATIONS, *_PLACED)
    empty = dict.fromkeys(
        ("place", "Place", "all", "one", "One", "are", "spot", "Spot", "relation", "other"), ""
    )
    return [
        *(pattern.format(**empty) for pattern in patterns),
        *(text for name, talk in _TALK.items() for text in (name, *talk)),
        *_MOODS, *PROMPTS, *LONG_PROMPTS, *SHORT_PROMPTS, *_NUMBERS.values(),
        "in the middle on the left on the right at the top at the bottom near above below",
        "to the left of the right, a pair of pairs of some is are and an",
        "In On At To A An Two Three Some The the",
    ]  # fmt: skip
