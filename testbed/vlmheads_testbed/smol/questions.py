"""Questions about a scene with true answers: yes or no, how many, where, what is beside what."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlmheads_testbed.captions import likely_absent
from vlmheads_testbed.categories import drawable, with_article
from vlmheads_testbed.scenes import Group, Scene
from vlmheads_testbed.smol.descriptions import Turn
from vlmheads_testbed.smol.phrases import (
    absent_words,
    are,
    bare,
    beside,
    is_plural,
    is_together,
    listed,
    located,
    noun,
    number,
    opposite,
    phrase,
    pick,
    relation,
    size,
    spot,
    upper,
)

Asker = Callable[[Scene, np.random.Generator], Turn | None]

#: Share of the questions of other kinds that are about something that is not there.
ABSENT = 0.2
_ONE_WORD = (" Please answer this question with one word.", " Answer yes or no.",
             " Answer with yes or no.")  # fmt: skip
_EXISTS = (
    "Is there {one} in the image?",
    "Is there {one} in this picture?",
    "Can you see {one} in the image?",
    "Do you see {one}?",
    "Does the image show {one}?",
    "Does the picture contain {one}?",
    "Are there any {many} in the image?",
)
_SIDES = ("in the middle", "on the left", "on the right", "at the top", "at the bottom")


def question(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask one question; kinds that a scene gives no ground for are drawn again."""
    kinds, shares = zip(*_KINDS, strict=True)
    while True:
        asker = kinds[int(random.choice(len(kinds), p=np.asarray(shares) / sum(shares)))]
        turn: Turn | None = asker(scene, random)
        if turn is not None:
            return turn


def absent(scene: Scene, random: np.random.Generator) -> str:
    """Choose a category that is not there: half of the time one that is likely in such a place."""
    if random.random() < 0.5:
        return likely_absent(scene, random)
    return pick([name for name in drawable() if name not in scene.names], random)


def exists(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask whether something is there; yes and no are equally likely."""
    truth = random.random() < 0.5
    if truth:
        group = pick(scene.groups, random)
        name = group.category
        one, many = pick(group.look.words, random)
    else:
        name = absent(scene, random)
        one, many = absent_words(name, random)
    if random.random() < 0.4:  # the words of POPE: the name of the category
        one, many = name, many if many.startswith(name) else name
    pattern = _EXISTS[0] if random.random() < 0.5 or many == name else pick(_EXISTS, random)
    asked = pattern.format(one=with_article(one), many=many)
    there = f"there is {with_article(one)}" if truth else f"there is no {one}"
    if "{many}" in pattern:
        there = f"there are {many}" if truth else f"there are no {many}"
    return _binary("exists", asked, truth, f"{there} in the image.", random, frozenset({name}))


def relates(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask whether one thing is on some side of another."""
    pairs = [
        (a, b, lies)
        for a in scene.groups
        for b in scene.groups
        if a is not b and (lies := relation(a, b)) not in (None, "near")
    ]
    if not pairs:
        return None
    group, other, lies = pick(pairs, random)
    truth = random.random() < 0.5
    one, of = bare(group, random), bare(other, random)
    asked = f"{upper(are(group))} the {one} {lies if truth else opposite(str(lies))} the {of}?"
    said = f"the {one} {are(group)} {lies} the {of}."
    return _binary("relates", asked, truth, said, random, frozenset({group.category}))


def lies(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask whether something is in some part of the image."""
    groups = [group for group in scene.groups if is_together(group) and spot(group) in _SIDES]
    if not groups:
        return None
    group = pick(groups, random)
    truth = random.random() < 0.5
    other = spot(group) if truth else pick([s for s in _SIDES if s != spot(group)], random)
    one = bare(group, random)
    asked = f"{upper(are(group))} the {one} {other} of the image?"
    said = f"the {one} {are(group)} {spot(group)}."
    return _binary("lies", asked, truth, said, random, frozenset({group.category}))


def numbers(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask whether there are two or three of something."""
    groups = [group for group in scene.groups if group.count > 1]
    if not groups:
        return None
    group = pick(groups, random)
    truth = random.random() < 0.5
    one, many = group.look.words[0]
    asked = (
        f"Are there {phrase(one, many, group.count if truth else 5 - group.count)} in the image?"
    )
    said = f"there are {phrase(one, many, group.count)}."
    return _binary("numbers", asked, truth, said, random, frozenset({group.category}))


def how_many(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask for the number of something."""
    if random.random() < ABSENT:
        name = absent(scene, random)
        many = absent_words(name, random)[1]
        answer = pick((f"There are no {many} in the image.", f"There are no {many}."), random)
        return _open("how many", _asked_number(many, random), answer)
    group = pick(scene.groups, random)
    one, many = group.look.words[0]
    said = f"There {are(group)} {phrase(one, many, group.count)} in the image."
    short = f"{upper(number(group))}."
    return _open("how many", _asked_number(many, random), pick((said, short), random), group)


def where(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask where something is."""
    if random.random() < ABSENT:
        one = absent_words(absent(scene, random), random)[0]
        return _open("where", f"Where is the {one}?", f"There is no {one} in the image.")
    group = pick(scene.groups, random)
    if not is_together(group):
        return None
    one = bare(group, random)
    asked = pick((f"Where {are(group)} the {one}?", f"Where in the image {are(group)} the {one}?",
                  f"In which part of the image {are(group)} the {one}?"), random)  # fmt: skip
    said = f"The {one} {are(group)} {spot(group)} of the image."
    return _open("where", asked, pick((said, f"{upper(spot(group))}."), random), group)


def beside_what(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask what is to the left or right of something, whose answer may be nothing."""
    group = pick(scene.groups, random)
    side = pick(("left", "right"), random)
    found = beside(group, scene, side) if is_together(group) else None
    if found is None:
        return None
    one = bare(group, random)
    asked = pick((f"What is to the {side} of the {one}?", f"What is {side} of the {one}?",
                  f"Which objects are to the {side} of the {one}?"), random)  # fmt: skip
    if not found:
        return _open("beside", asked, f"There is nothing to the {side} of the {one}.", group)
    things = listed([noun(other, random) for other in found])
    said = f"To the {side} of the {one} {are(found[0])} {things}."
    named = frozenset(other.category for other in (group, *found))
    return Turn(asked, pick((said, f"{upper(things)}."), random), "beside", named=named)


def what_things(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask for a list of all objects."""
    groups = [scene.groups[i] for i in random.permutation(len(scene.groups))]
    things = listed([noun(group, random) for group in groups])
    asked = pick(("What objects are in the image?", "List the objects in this image.",
                  "Which things can be seen?"), random)  # fmt: skip
    said = f"The image contains {things}."
    return Turn(asked, pick((said, f"{upper(things)}."), random), "list", named=scene.names)


def which_place(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask what kind of place it is."""
    place = with_article(scene.place.name)
    asked = pick(("Where was this picture taken?", "What kind of place is this?",
                  "What is the setting of the image?"), random)  # fmt: skip
    said = (
        f"This is {place}.",
        f"The picture was taken {located(scene.place.name)}.",
        f"{upper(place)}.",
    )
    return Turn(asked, pick(said, random), "place")


def which_one(scene: Scene, random: np.random.Generator) -> Turn:
    """Ask which of two things is there."""
    group = pick(scene.groups, random)
    one = group.look.words[0][0]
    other = absent_words(absent(scene, random), random)[0]
    pair = [one, other] if random.random() < 0.5 else [other, one]
    choice = " or ".join(with_article(word) for word in pair)
    asked = pick((f"Is there {choice} in the image?", f"Which one is in the image, {choice}?"),
                 random)  # fmt: skip
    said = f"There is {with_article(one)}."
    return _open("which", asked, pick((said, f"{upper(with_article(one))}."), random), group)


def how_large(scene: Scene, random: np.random.Generator) -> Turn | None:
    """Ask whether something is large or small, also of what is not there."""
    if random.random() < 2 * ABSENT:
        one = absent_words(absent(scene, random), random)[0]
        asked = pick((f"Is the {one} large or small?", f"What is next to the {one}?",
                      f"What can you say about the {one}?"), random)  # fmt: skip
        said = (f"There is no {one} in the image.", f"The image does not show {with_article(one)}.")
        return _open("size", asked, pick(said, random))
    groups = [group for group in scene.groups if size(group) and not is_plural(group)]
    if not groups:
        return None
    group = pick(groups, random)
    one = bare(group, random)
    said = (f"The {one} is {size(group)}.", f"It is {size(group)}.")
    return _open("size", f"Is the {one} large or small?", pick(said, random), group)


def _asked_number(many: str, random: np.random.Generator) -> str:
    patterns = ("How many {many} are there?", "How many {many} are in the image?",
                "How many {many} can you see?", "Count the {many}.")  # fmt: skip
    return pick(patterns, random).format(many=many)


def _binary(
    kind: str,
    asked: str,
    truth: bool,
    said: str,
    random: np.random.Generator,
    named: frozenset[str],
) -> Turn:
    word = "Yes" if truth else "No"
    if random.random() < 0.25:
        return Turn(asked + pick(_ONE_WORD, random), f"{word}.", kind, truth, named)
    answer = f"{word}." if random.random() < 0.5 else f"{word}, {said}"
    return Turn(asked, answer, kind, truth, named)


def _open(kind: str, asked: str, answer: str, group: Group | None = None) -> Turn:
    return Turn(asked, answer, kind, named=frozenset({group.category} if group else ()))


_KINDS: tuple[tuple[Asker, float], ...] = (
    (exists, 0.32),
    (relates, 0.07),
    (lies, 0.06),
    (numbers, 0.03),
    (how_many, 0.09),
    (where, 0.08),
    (beside_what, 0.08),
    (what_things, 0.25),  # nearly every word of the answer has to be looked for
    (which_place, 0.03),
    (which_one, 0.04),
    (how_large, 0.05),
)
