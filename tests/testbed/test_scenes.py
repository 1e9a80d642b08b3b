from itertools import combinations

import numpy as np
import pytest
from vlmheads_testbed.categories import categories, drawable, looks
from vlmheads_testbed.scenes import PLACES, SIZE, SPLITS, Scene, scene

from vlmheads.errors import VlmHeadsError


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Scene]]:
    return {split: [scene(split, 0, index) for index in range(120)] for split in SPLITS}


def test_a_scene_is_the_same_to_the_byte_when_it_is_drawn_again() -> None:
    first, again = scene("test", 3, 7), scene("test", 3, 7)
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.groups == again.groups


def test_at_least_64_categories_have_a_drawing() -> None:
    assert len(drawable()) >= 64


def test_the_table_holds_the_eighty_categories_of_coco() -> None:
    ids = [category.id for category in categories()]
    assert (len(ids), ids[0], ids[-1]) == (80, 1, 90)
    assert ids == sorted(set(ids))


def test_every_drawable_category_is_likely_somewhere() -> None:
    assert {name for place in PLACES for name in place.objects} == set(drawable())


def test_no_two_categories_share_a_drawing() -> None:
    codepoints = [look.codepoint for look in looks()]
    assert len(codepoints) == len(set(codepoints))


def test_boxes_are_inside_the_picture_and_hold_their_pixels(
    drawn: dict[str, list[Scene]],
) -> None:
    for one in drawn["train"]:
        for group in one.groups:
            for (x, y, width, height), area in zip(group.boxes, group.areas, strict=True):
                assert x >= 0
                assert y >= 0
                assert x + width <= SIZE
                assert y + height <= SIZE
                assert 0 < area <= width * height


def test_most_of_every_object_can_be_seen(drawn: dict[str, list[Scene]]) -> None:
    for one in drawn["test"]:
        for number, group in enumerate(one.groups):
            assert (one.cover == number).sum() >= 0.7 * sum(group.areas) - 1


def test_the_covered_pixels_of_an_object_are_inside_its_boxes(
    drawn: dict[str, list[Scene]],
) -> None:
    for one in drawn["val"]:
        outside = one.cover.copy()
        for x, y, width, height in (box for group in one.groups for box in group.boxes):
            outside[y : y + height, x : x + width] = -1
        assert (outside == -1).all()


def test_the_splits_share_no_picture(drawn: dict[str, list[Scene]]) -> None:
    pictures = {split: {one.pixels.tobytes() for one in drawn[split]} for split in SPLITS}
    assert all(pictures[a].isdisjoint(pictures[b]) for a, b in combinations(SPLITS, 2))


def test_seeds_share_no_picture() -> None:
    a, b = ({scene("val", seed, i).pixels.tobytes() for i in range(20)} for seed in (0, 1))
    assert a.isdisjoint(b)


def test_most_objects_of_a_test_scene_are_the_likely_ones(drawn: dict[str, list[Scene]]) -> None:
    own = [name in one.place.objects for one in drawn["test"] for name in one.names]
    assert 0.8 < np.mean(own) < 0.98


def test_no_object_of_a_counterfactual_scene_is_a_likely_one(
    drawn: dict[str, list[Scene]],
) -> None:
    assert all(one.names.isdisjoint(one.place.objects) for one in drawn["counterfactual"])


def test_every_scene_shows_something(drawn: dict[str, list[Scene]]) -> None:
    assert all(one.groups for scenes in drawn.values() for one in scenes)


def test_an_unknown_split_is_refused_by_name() -> None:
    with pytest.raises(VlmHeadsError, match=r"'exam'.*counterfactual"):
        scene("exam", 0, 0)
