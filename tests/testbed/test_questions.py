import numpy as np
import pytest
from vlmheads_testbed.captions import Sample, question
from vlmheads_testbed.questions import CHECKS, check_text, question_samples
from vlmheads_testbed.scenes import Scene, scene, stream

Asked = list[tuple[Scene, list[Sample]]]


@pytest.fixture(scope="module")
def asked() -> Asked:
    scenes = [scene("train", 6, index) for index in range(200)]
    return [(one, question_samples(one, stream("train", 6, i, 1))) for i, one in enumerate(scenes)]


def test_questions_are_balanced_and_answered_truthfully(asked: Asked) -> None:
    for one, samples in asked:
        answers = [sample.answer for sample in samples]
        assert answers.count("Yes.") == answers.count("No.") == len(answers) / 2
        for sample in samples:
            assert (sample.answer == "Yes.") == (sample.named <= one.names)


def test_either_answer_comes_first_as_often(asked: Asked) -> None:
    assert 0.4 < np.mean([samples[0].answer == "Yes." for _, samples in asked]) < 0.6


def test_half_of_the_absent_objects_asked_for_are_likely(asked: Asked) -> None:
    absent = [
        (one, name) for one, samples in asked for s in samples for name in s.named - one.names
    ]
    assert 0.4 < np.mean([name in one.place.objects for one, name in absent]) < 0.7


def test_checks_ask_for_each_object_once_among_absent_ones_in_any_order() -> None:
    firsts = []
    for index in range(60):
        one = scene("train", 7, index)
        parts = check_text(one, stream("train", 7, index, 1)).rstrip(".").split(". ")
        pairs = [part.split("? ") for part in parts]
        assert len({name for name, _ in pairs}) == len(pairs) == CHECKS
        assert {name for name, said in pairs if said == "Yes"} == one.names
        firsts.append(pairs[0][1])
    assert {"Yes", "No"} == set(firsts)


def test_a_question_has_the_right_article() -> None:
    assert question("airplane") == "Is there an airplane in the image?"
    assert question("hot dog") == "Is there a hot dog in the image?"
