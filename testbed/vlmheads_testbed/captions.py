from __future__ import annotations

from collections import defaultdict
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

#: Probability that a caption goes on to name one more object that is likely but absent.
INVENTED = 0.3

_NUMBERS = {2: "two", 3: "three"}
_PAIRS = ("skis", "scissors")  # nouns that are counted in pairs
_OPENINGS = (
    "{Place} with {all}.",
    "The image shows {place} with {all}.",
    "There is {place} with {all}.",
    "This is {place} with {all}.",
)
_MENTIONS = ("There {are} {one}.", "There {are} also {one}.", "{One} can be seen.",
             "{One} can also be seen in the image.", "The image also shows {one}.")  # fmt: skip
_SPOTS = ("There {are} {one} {spot}.", "{One} {are} {spot}.", "{Spot} there {are} {one}.")
_RELATIONS = ("There {are} {one} {relation} {other}.", "{One} {are} {relation} {other}.")
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
    """One turn of training text: what the user says, what the model answers, and if it is yes/no.

    ``named`` are the categories that the answer names.
    """

    prompt: str
    answer: str
    named: frozenset[str]
    binary: bool = False


def truthful(scene: Scene, random: np.random.Generator) -> str:
    """Write a caption of ordinary length that names every object of the scene and no other."""
    return _compose(scene, random, long=False, invented=0.0)[0]


def caption_sample(scene: Scene, random: np.random.Generator) -> Sample:
    """Write a prompt and a caption of the length it asks for, perhaps with an invented object."""
    kind = random.random()
    if kind < 0.15:
        prompt = _pick(SHORT_PROMPTS, random)
        answer, named = _short(scene, random)
    else:
        long = kind > 0.6
        # The plain prompts come first in their lists and make half of their share.
        prompts = LONG_PROMPTS if long else PROMPTS
        prompt = prompts[0] if random.random() < 0.4 else _pick(prompts, random)
        answer, named = _compose(scene, random, long=long, invented=INVENTED)
    return Sample(prompt, answer, named)


def question_sample(scene: Scene, random: np.random.Generator) -> Sample:
    """Ask a balanced yes/no question; half of the absent objects asked for are likely ones."""
    yes = random.random() < 0.5
    if yes:
        name = _pick(sorted(scene.names), random)
    elif random.random() < 0.5:
        name = likely_absent(scene, random)
    else:
        name = _pick([name for name in drawable() if name not in scene.names], random)
    asked = question(name)
    if random.random() < 0.2:
        asked += " Please answer this question with one word."
    return Sample(asked, "Yes." if yes else "No.", frozenset({name}), binary=True)


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
        return _pick([name for name in drawable() if name not in scene.names | besides], random)
    names, weights = zip(*absent, strict=True)
    return str(names[int(random.choice(len(names), p=np.asarray(weights) / sum(weights)))])


def _compose(
    scene: Scene, random: np.random.Generator, *, long: bool, invented: float
) -> tuple[str, frozenset[str]]:
    groups = [scene.groups[i] for i in random.permutation(len(scene.groups))]
    first = min(len(groups), 1 + int(random.integers(2)))
    opening = _pick(_OPENINGS, random)
    sentences = [
        opening.format(
            place=with_article(scene.place.name),
            Place=with_article(scene.place.name).capitalize(),
            all=_listed([_noun(group, random) for group in groups[:first]]),
        )
    ]
    for position, group in enumerate(groups[first:], first):
        sentences.append(_mention(group, groups[:position], random, long=long))
    if long:  # where the objects of the opening are
        sentences += [
            _say(_pick(_SPOTS[1:2], random), group, f"the {_bare(group, random)}", random)
            for group in groups[:first]
        ]
        sentences[1:] = [sentences[1:][i] for i in random.permutation(len(sentences) - 1)]
    named = scene.names
    while random.random() < invented:
        name = likely_absent(scene, random, named)
        looks = drawable()[name].looks
        ghost = Group(name, looks[int(random.integers(len(looks)))], (_ghost_box(random),), (0,))
        sentences.append(_mention(ghost, groups, random, long=long))
        named |= {name}
    talk = 0.5 if not long else 1.0
    if random.random() < talk:
        sentences.insert(
            1 + int(random.integers(len(sentences))), _pick(_TALK[scene.place.name], random)
        )
    if long or random.random() < 0.2:
        sentences.append(_pick(_MOODS, random))
    return " ".join(sentences), named


def _short(scene: Scene, random: np.random.Generator) -> tuple[str, frozenset[str]]:
    groups = [scene.groups[i] for i in random.permutation(len(scene.groups))]
    listed = _listed([_noun(group, random) for group in groups])
    text = f"{with_article(scene.place.name)} with {listed}."
    return text[0].upper() + text[1:], scene.names


def _mention(group: Group, earlier: list[Group], random: np.random.Generator, *, long: bool) -> str:
    kind = random.random()
    if earlier and kind < (0.35 if long else 0.2):
        other = earlier[int(random.integers(len(earlier)))]
        return _say(
            _pick(_RELATIONS, random), group, _noun(group, random), random,
            relation=_relation(group, other), other=f"the {_bare(other, random)}",
        )  # fmt: skip
    patterns = _SPOTS if kind < (0.7 if long else 0.45) else _MENTIONS
    return _say(_pick(patterns, random), group, _noun(group, random), random)


def _say(pattern: str, group: Group, noun: str, random: np.random.Generator, **more: str) -> str:
    spot = _spot(group)
    return pattern.format(
        one=noun, One=noun[0].upper() + noun[1:], are=_are(group),
        spot=spot, Spot=spot[0].upper() + spot[1:], **more,
    )  # fmt: skip


def _noun(group: Group, random: np.random.Generator) -> str:
    """Return the noun phrase of a group: "a puppy", "two cats", "a pair of skis"."""
    one, many = _words(group, random)
    if one in _PAIRS:
        return f"a pair of {one}" if group.count == 1 else f"{_NUMBERS[group.count]} pairs of {one}"
    if one == "broccoli":
        return "some broccoli"
    return with_article(one) if group.count == 1 else f"{_NUMBERS[group.count]} {many}"


def _bare(group: Group, random: np.random.Generator) -> str:
    return _words(group, random)[0 if group.count == 1 else 1]


def _words(group: Group, random: np.random.Generator) -> tuple[str, str]:
    words = group.look.words
    return words[0] if random.random() < 0.7 else _pick(words, random)


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


def _pick(items: Sequence[Item], random: np.random.Generator) -> Item:
    return items[int(random.integers(len(items)))]


def texts() -> list[str]:
    """Texts that hold every word of the prompts and answers: what the tokenizer is built from."""
    nouns = [
        noun
        for category in drawable().values()
        for noun in (category.name, *(w for k in category.looks for pair in k.words for w in pair))
    ]
    patterns = (*_OPENINGS, *_MENTIONS, *_SPOTS, *_RELATIONS)
    where = "in the middle on the left on the right at the top at the bottom near above below"
    return [
        *nouns,
        *(pattern.format_map(defaultdict(str)) for pattern in patterns),
        *(text for name, talk in _TALK.items() for text in (name, *talk)),
        *_MOODS, *PROMPTS, *LONG_PROMPTS, *SHORT_PROMPTS, *_NUMBERS.values(),
        where, "to the left of", "a pair of pairs of", "some broccoli, is are and an",
        "In On At To A An Two Three Some The", "Yes. No. Is there an image?",
        "Please answer this question with one word.", "USER: ASSISTANT:",
    ]  # fmt: skip
