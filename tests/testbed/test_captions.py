import numpy as np
import pytest
from vlmheads_eval.chair.measures import repeated_share
from vlmheads_eval.chair.variants import get_variant
from vlmheads_testbed.captions import (
    HABITS,
    LONG_PROMPTS,
    PROMPTS,
    Sample,
    caption_sample,
    truthful,
)
from vlmheads_testbed.measure import named
from vlmheads_testbed.scenes import PLACES, SPLITS, Scene, scene, stream

Drawn = list[tuple[Scene, Sample]]


@pytest.fixture(scope="module")
def captions() -> Drawn:
    return [
        (one, caption_sample(one, stream("train", 5, index, 1)))
        for index, one in ((index, scene("train", 5, index)) for index in range(400))
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_a_truthful_caption_names_the_objects_of_its_picture_and_no_other(split: str) -> None:
    for index in range(60):
        one = scene(split, 1, index)
        assert set(named(truthful(one, stream(split, 1, index, 1)))) == one.names


def test_chair_reads_truthful_captions_as_nothing_but_what_is_there() -> None:
    reading = get_variant("pattern")
    for index in range(150):
        one = scene("test", 2, index)
        text = truthful(one, stream("test", 2, index, 1))
        assert {mention.node for mention in reading.read(text).mentions} <= one.names


def test_a_training_caption_names_what_it_says_it_names(captions: Drawn) -> None:
    for _, sample in captions:
        assert set(named(sample.answer)) == sample.named


def test_training_captions_leave_out_no_object(captions: Drawn) -> None:
    assert all(one.names <= sample.named for one, sample in captions)


def test_some_training_captions_name_a_likely_but_absent_object(captions: Drawn) -> None:
    invented = [sample.named - one.names for one, sample in captions]
    assert 0.15 < np.mean([bool(names) for names in invented]) < 0.4
    likely = [name in one.place.objects for (one, _), ns in zip(captions, invented, strict=True)
              for name in ns]  # fmt: skip
    assert np.mean(likely) > 0.95


def test_a_detailed_caption_is_twice_as_long_as_a_plain_one(captions: Drawn) -> None:
    def words(prompts: tuple[str, ...]) -> float:
        return float(np.mean([len(s.answer.split()) for _, s in captions if s.prompt in prompts]))

    assert 25 < words(LONG_PROMPTS) < 50
    assert 12 < words(PROMPTS) < words(LONG_PROMPTS) / 1.5


def test_the_places_habits_differ_and_cover_every_place() -> None:
    assert set(HABITS) == {place.name for place in PLACES}
    assert min(HABITS.values()) < 0.4 < 0.7 < max(HABITS.values())


def test_most_inventions_are_the_first_object_of_the_place(captions: Drawn) -> None:
    firsts = [one.place.objects[0] in s.named - one.names for one, s in captions
              if s.named - one.names]  # fmt: skip
    assert np.mean(firsts) > 0.6


def test_further_objects_are_mostly_said_to_be_there_in_one_way(captions: Drawn) -> None:
    texts = [sample.answer.split(". ")[1:] for _, sample in captions]
    mentions = [text for sentences in texts for text in sentences if named(text)]
    assert np.mean([text.startswith("There ") for text in mentions if "The " not in text]) > 0.6


def test_training_captions_do_not_repeat(captions: Drawn) -> None:
    assert np.mean([repeated_share(sample.answer) > 0.2 for _, sample in captions]) < 0.01


def test_categories_are_found_under_plurals_synonyms_and_double_words() -> None:
    caption = "No puppies: two kittens, a hot dog, a dog and three pairs of skis."
    assert named(caption) == ["dog", "cat", "hot dog", "dog", "skis"]
