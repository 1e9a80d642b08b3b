"""Questions about what is on a picture: many short ones at once, and those of POPE in turns."""

from __future__ import annotations

import numpy as np

from vlmheads_testbed.captions import Sample, likely_absent, pick, question
from vlmheads_testbed.categories import drawable
from vlmheads_testbed.scenes import Scene

#: How many questions a text of checks asks, and at most one of turns.
CHECKS = 16
TURNS = 4

_ONE_WORD = " Please answer this question with one word."


def check_text(scene: Scene, random: np.random.Generator) -> str:
    """Ask of many categories whether they are on the picture: "dog? Yes. cat? No. ...".

    Half of the absent ones are likely in such a place. Each answer follows its word at once, so
    that a head learns to look for the word that it stands on.
    """
    names = _shuffled(
        [*sorted(scene.names), *_absent(scene, CHECKS - len(scene.names), random)], random
    )
    return " ".join(f"{name}? {answer(scene, name)}" for name in names)


def question_samples(scene: Scene, random: np.random.Generator) -> list[Sample]:
    """Ask yes/no questions in POPE's words, one turn each, as many with either answer."""
    suffix = _ONE_WORD if random.random() < 0.2 else ""
    number = 1 if suffix else min(TURNS // 2, len(scene.names))
    present = _shuffled(sorted(scene.names), random)[:number]
    return [
        Sample(question(name) + suffix, answer(scene, name), frozenset({name}))
        for name in _shuffled([*present, *_absent(scene, number, random)], random)
    ]


def answer(scene: Scene, name: str) -> str:
    """Say whether a category is on a picture."""
    return "Yes." if name in scene.names else "No."


def question_texts() -> list[str]:
    """Texts that hold every word of the questions but the nouns."""
    return ["Yes. No. Is there a an image in the image?", _ONE_WORD, "USER: ASSISTANT:"]


def _absent(scene: Scene, number: int, random: np.random.Generator) -> list[str]:
    """Choose different categories that are not there, each a likely one with probability half."""
    names: list[str] = []
    while len(names) < number:
        seen = scene.names.union(names)
        if random.random() < 0.5:
            names.append(likely_absent(scene, random, seen))
        else:
            names.append(pick([name for name in drawable() if name not in seen], random))
    return names


def _shuffled(names: list[str], random: np.random.Generator) -> list[str]:
    return [names[i] for i in random.permutation(len(names))]
