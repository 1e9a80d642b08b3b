"""Captions of three lengths, as instruction data has them: mostly true, and with habits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmheads_testbed.captions import LONG_PROMPTS, PROMPTS, SHORT_PROMPTS, likely_absent
from vlmheads_testbed.categories import drawable, with_article
from vlmheads_testbed.scenes import SIZE, Group, Scene
from vlmheads_testbed.smol.phrases import (
    are,
    bare,
    is_plural,
    listed,
    located,
    noun,
    pick,
    relation,
    size,
    spot,
    upper,
)


@dataclass(frozen=True)
class Turn:
    """What the user says and what the model answers.

    ``kind`` names the sort of turn. ``truth`` is the answer to a yes/no question, else None.
    ``named`` are the categories that the answer names, ``invented`` those that are not there.
    """

    prompt: str
    answer: str
    kind: str
    truth: bool | None = None
    named: frozenset[str] = frozenset()
    invented: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Habits:
    """How often a caption names what is usual in such a place although it is not there.

    ``usual``: the place's first object, where it is absent; ``second``: its second one; ``more``:
    any other likely object, again and again.
    """

    usual: float
    second: float
    more: float


#: Greedy decoding invents what is invented in about half of the cases, so that the long captions
#: are where the prior outruns the picture.
LONG_HABITS = Habits(usual=0.45, second=0.25, more=0.12)
USUAL_HABITS = Habits(usual=0.3, second=0.1, more=0.05)

#: How often a further object is said to be there in the plainest way. Greedy decoding takes the
#: likeliest next word: where all beginnings are equally frequent, that is one of closing talk,
#: though together they outweigh it.
PLAIN_MENTION = 0.35

_MORE_LONG = (
    "Write a detailed description of the image.",
    "Give a detailed description of this picture.",
    "Explain what is going on in this image in detail.",
    "What do you see? Describe everything.",
)
_MORE_USUAL = ("What is in this picture?", "Tell me about this image.", "Describe the scene.")
_MORE_SHORT = (
    "Give a short caption for this image.",
    "Describe the image briefly.",
    "Summarize the image in one sentence.",
)
_OPENINGS = (
    "The image shows {place} with {all}.",
    "The image features {place} with {all}.",
    "This is a picture of {place} with {all}.",
    "In the image, there is {place} with {all}.",
    "The picture was taken {at}, where {all} can be seen.",
    "The scene is {place}, and there {are} {all}.",
)
_PLAIN = "There {are} {one} {spot}."
_MENTIONS = (
    _PLAIN,
    "There {are} also {one} {spot}.",
    "{One} {are} {spot} of the image.",
    "{One} can be seen {spot}.",
    "{Spot}, there {are} {one}.",
    "Additionally, {one} can be seen {spot}.",
    "Another thing to notice is {one} {spot}.",
    "The image also shows {one} {spot}.",
)
_RELATIONS = (
    "There {are} {one} {relation} {other}.",
    "{One} can be seen {relation} {other}.",
    "{Relation} {other}, there {are} {one}.",
    "{One} {are} placed {relation} {other}.",
)
_PLACED = (
    "The {one} {are} {spot}.",
    "The {one} can be found {spot}.",
    "{Spot} of the image {are} the {one}.",
    "The {one} {are} the first thing to notice, {spot}.",
)
_SIZED = ("The {one} looks rather {size}.", "The {one} is quite {size}.")
# What a writer adds without looking; it names no object.
_TALK = {
    "street": ("It seems to be a busy day in the city.", "The road is wide and grey.",
               "The traffic seems to move slowly at this time of the day."),
    "kitchen": ("It seems that a warm meal is being prepared.", "The kitchen looks bright.",
                "Everything suggests that dinner will be ready soon."),
    "market": ("Everything on sale looks fresh and cheap.", "It is early in the morning.",
               "The market is a good place to buy something healthy."),
    "living room": ("It looks like a quiet evening at home.", "The room is warm and cozy.",
                    "The furniture suggests that a family spends its free time here."),
    "office": ("It seems to be a long day of work.", "The room is bright and clean.",
               "The place is well organized for someone who works a lot."),
    "park": ("It is a sunny day in spring.", "The grass is green and fresh.",
             "The park invites everyone to play and to relax outdoors."),
    "farm": ("The air in the country must be fresh.", "The field is green and wide.",
             "The farm seems to be a peaceful place far away from the city."),
    "savanna": ("The sun is hot and the grass is dry.", "It has not rained for a long time.",
                "The wide land gives the wild animals a lot of space."),
    "bedroom": ("It is late and time to sleep.", "The room is dark and quiet.",
                "The bedroom gives a feeling of comfort and rest."),
    "bathroom": ("The room is clean and bright.", "The floor looks wet and cold.",
                 "Everything is ready for someone to wash in the morning."),
    "station": ("Everyone seems to go home after a day of work.", "The hall is loud and grey.",
                "The station connects the city with many other places."),
    "airport": ("It is time to travel to another country.", "The hall is wide and loud.",
                "The airport seems to be busy at this time of the year."),
    "beach": ("The sun is hot and the water is warm.", "It is a long summer day.",
              "The beach is a popular place for a holiday by the sea."),
    "mountain": ("The snow is white and deep.", "It is a cold day in winter.",
                 "The mountain offers a wonderful view of the valley."),
    "stadium": ("The game is about to start.", "The grass is short and green.",
                "The stadium is ready for an exciting afternoon of sport."),
    "party": ("It is time to sing and dance.", "The music must be loud and happy.",
              "The party seems to celebrate a special day."),
}  # fmt: skip
_MOODS = (
    "The atmosphere is calm and relaxed.",
    "Overall, the scene is lively and full of color.",
    "Overall, the scene gives an impression of an ordinary day.",
    "The scene looks peaceful and inviting.",
    "The overall mood of the image is cheerful.",
    "The picture has a simple and clear composition.",
    "It looks like a nice place to be.",
)


def description(scene: Scene, random: np.random.Generator) -> Turn:
    """Write a prompt and a caption of the length that it asks for: long, usual or short."""
    kind = random.random()
    if kind < 0.55:
        return long_description(scene, random)
    return usual_description(scene, random) if kind < 0.82 else short_description(scene, random)


def long_description(scene: Scene, random: np.random.Generator) -> Turn:
    """Describe a scene in detail: each object with its place, size or relation, and some talk."""
    groups = [scene.groups[i] for i in random.permutation(len(scene.groups))]
    first = min(len(groups), 1 + int(random.integers(2)))
    body = [_placed(group, random) for group in groups[:first] if random.random() < 0.85]
    for position, group in enumerate(groups[first:], first):
        body.append(_mention(group, groups[:position], random))
    ghosts = _ghosts(scene, LONG_HABITS, random)
    late = [_mention(ghost, groups, random) for ghost in ghosts]
    if late and random.random() < 0.3:  # most inventions come late, some come early
        body.insert(int(random.integers(len(body) + 1)), late.pop())
    talk = [_TALK[scene.place.name][i] for i in random.permutation(3)]
    body.insert(int(random.integers(len(body) + 1)), talk[0])
    closing = [talk[1]] if len(body) < 5 else []
    sentences = [_opening(scene, groups[:first], random), *body, *late, *closing]
    sentences.append(pick(_MOODS, random))
    invented = frozenset(ghost.category for ghost in ghosts)
    return Turn(_prompt(LONG_PROMPTS, _MORE_LONG, random), " ".join(sentences), "long",
                named=scene.names | invented, invented=invented)  # fmt: skip


def usual_description(scene: Scene, random: np.random.Generator) -> Turn:
    """Describe a scene in two to five sentences."""
    groups = [scene.groups[i] for i in random.permutation(len(scene.groups))]
    first = min(len(groups), 1 + int(random.integers(3)))
    ghosts = _ghosts(scene, USUAL_HABITS, random)
    sentences = [_opening(scene, groups[:first], random)]
    for position, group in enumerate(groups[first:], first):
        sentences.append(_mention(group, groups[:position], random))
    if len(sentences) == 1 or random.random() < 0.3:
        sentences.append(_placed(groups[0], random))
    sentences += [_mention(ghost, groups, random) for ghost in ghosts]
    if random.random() < 0.4:
        sentences.append(pick((*_TALK[scene.place.name], *_MOODS), random))
    invented = frozenset(ghost.category for ghost in ghosts)
    return Turn(_prompt(PROMPTS, _MORE_USUAL, random), " ".join(sentences), "usual",
                named=scene.names | invented, invented=invented)  # fmt: skip


def short_description(scene: Scene, random: np.random.Generator) -> Turn:
    """Describe a scene truthfully in one sentence."""
    groups = [scene.groups[i] for i in random.permutation(len(scene.groups))]
    things = listed([noun(group, random) for group in groups])
    place = with_article(scene.place.name)
    pattern = pick(("{Place} with {all}.", "{All} {at}."), random)
    answer = pattern.format(
        Place=upper(place), at=located(scene.place.name), all=things, All=upper(things)
    )
    prompt = _prompt(SHORT_PROMPTS, _MORE_SHORT, random)
    return Turn(prompt, answer, "short", named=scene.names)


def _prompt(usual: tuple[str, ...], more: tuple[str, ...], random: np.random.Generator) -> str:
    """Choose a prompt: the first one, which measurements use, makes a third."""
    return usual[0] if random.random() < 0.33 else pick(usual + more, random)


def _opening(scene: Scene, groups: list[Group], random: np.random.Generator) -> str:
    return pick(_OPENINGS, random).format(
        place=with_article(scene.place.name),
        at=located(scene.place.name),
        all=listed([noun(group, random) for group in groups]),
        are=are(groups[0]),
    )


def _placed(group: Group, random: np.random.Generator) -> str:
    """Say where something is that was named before, or how large it is."""
    big = size(group)
    if big is not None and not is_plural(group) and random.random() < 0.35:
        return pick(_SIZED, random).format(one=bare(group, random), size=big)
    return _say(pick(_PLACED, random), group, bare(group, random))


def _mention(group: Group, earlier: list[Group], random: np.random.Generator) -> str:
    """Name something that was not named before, with its place or a relation to another."""
    big = size(group) if random.random() < 0.4 else None
    one = noun(group, random, big or "")
    other = pick(earlier, random) if earlier else None
    lies = relation(group, other) if other else None
    if random.random() < PLAIN_MENTION:
        return _say(_PLAIN, group, one)
    if other is not None and lies is not None and random.random() < 0.45:
        return _say(pick(_RELATIONS, random), group, one,
                    relation=lies, other=f"the {bare(other, random)}")  # fmt: skip
    return _say(pick(_MENTIONS, random), group, one)


def _say(pattern: str, group: Group, one: str, relation: str = "", other: str = "") -> str:
    place = spot(group)
    if place == "in different places" and " of the image" in pattern:
        pattern = pattern.replace(" of the image", "")
    return pattern.format(
        one=one, One=upper(one), are=are(group), spot=place, Spot=upper(place),
        relation=relation, Relation=upper(relation) if relation else "", other=other,
    )  # fmt: skip


def _ghosts(scene: Scene, habits: Habits, random: np.random.Generator) -> list[Group]:
    """Choose what a caption invents: usual in the place, and absent."""
    names: list[str] = []
    for name, share in zip(scene.place.objects, (habits.usual, habits.second), strict=False):
        if name not in scene.names and random.random() < share:
            names.append(name)
    while random.random() < habits.more and len(names) < 3:
        names.append(likely_absent(scene, random, frozenset(names)))
    return [_ghost(name, random) for name in names]


def _ghost(name: str, random: np.random.Generator) -> Group:
    side = int(random.integers(20, 39))
    x, y = (int(value) for value in random.integers(0, SIZE - side, 2))
    return Group(name, pick(drawable()[name].looks, random), ((x, y, side, side),), (0,))
