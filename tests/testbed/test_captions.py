import numpy as np
import pytest
from vlmheads_eval.chair.variants import get_variant
from vlmheads_testbed.captions import (
    LONG_PROMPTS,
    PROMPTS,
    Sample,
    caption_sample,
    question,
    question_sample,
    truthful,
)
from vlmheads_testbed.measure import named
from vlmheads_testbed.scenes import SPLITS, Scene, scene, stream

Drawn = list[tuple[Scene, Sample]]


@pytest.fixture(scope="module")
def captions() -> Drawn:
    return [
        (one, caption_sample(one, stream("train", 5, index, 1)))
        for index, one in ((index, scene("train", 5, index)) for index in range(400))
    ]


@pytest.fixture(scope="module")
def questions() -> Drawn:
    return [
        (one, question_sample(one, stream("train", 6, index, 1)))
        for index, one in ((index, scene("train", 6, index)) for index in range(400))
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


def test_questions_are_balanced_and_answered_truthfully(questions: Drawn) -> None:
    answers = [sample.answer for _, sample in questions]
    assert set(answers) == {"Yes.", "No."}
    assert 0.4 < answers.count("Yes.") / len(answers) < 0.6
    for one, sample in questions:
        assert (sample.answer == "Yes.") == (sample.named <= one.names)


def test_a_question_has_the_right_article() -> None:
    assert question("airplane") == "Is there an airplane in the image?"
    assert question("hot dog") == "Is there a hot dog in the image?"


def test_categories_are_found_under_plurals_synonyms_and_double_words() -> None:
    caption = "No puppies: two kittens, a hot dog, a dog and three pairs of skis."
    assert named(caption) == ["dog", "cat", "hot dog", "dog", "skis"]
