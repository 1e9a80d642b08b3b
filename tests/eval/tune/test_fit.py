"""Whether captions fit their annotations."""

import random

from vlmheads_eval.tune.fit import LEVEL, misfit

NAMES = ("dog", "cat", "car", "cup", "kite", "bed", "cow", "boat")


def sets(seed: int) -> dict[str, frozenset[str]]:
    draw = random.Random(seed)
    return {str(at): frozenset(draw.sample(NAMES, 2)) for at in range(16)}


def test_captions_of_their_own_images_fit() -> None:
    truth = sets(0)
    assert misfit(truth, truth, 0) == ""
    wrong = sets(1)
    half = {key: objects if int(key) % 2 else wrong[key] for key, objects in truth.items()}
    assert misfit(half, truth, 0) == ""


def test_captions_of_other_images_do_not_but_by_chance() -> None:
    truth = sets(0)
    fitting = [seed for seed in range(1, 101) if not misfit(sets(seed), truth, 0)]
    assert len(fitting) <= 100 * LEVEL + 3


def test_the_same_words_for_every_image_say_nothing_about_any() -> None:
    truth = sets(0)
    assert "in others" in misfit(dict.fromkeys(truth, frozenset({"dog", "cat"})), truth, 0)


def test_nothing_fits_where_no_object_is_named() -> None:
    empty = dict.fromkeys(sets(0), frozenset[str]())
    assert "neither" in misfit(empty, empty, 0)
