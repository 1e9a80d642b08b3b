import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlmheads_eval.chair.ground_truth import GroundTruth, load_ground_truth
from vlmheads_eval.chair.measures import repeated_share
from vlmheads_eval.chair.score import score_chair, sentence_ends
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.records import Caption

from vlmheads.errors import VlmHeadsError

PATTERN = get_variant("pattern")
TRUTH = GroundTruth({"1": frozenset({"dog"}), "2": frozenset({"cat", "dog"})}, ())


def score(*texts, truth=TRUTH):
    captions = [Caption(1 + number % 2, text) for number, text in enumerate(texts)]
    return score_chair(captions, truth, PATTERN)


def test_measures_are_ratios_of_sums_over_the_corpus():
    figures = score("A dog, a dog and a cat.", "A cat and a car.")["overall"]
    assert figures == {
        "captions": 2,
        "CHAIRs": 1.0,
        "CHAIRi": 2 / 5,
        "recall": 2 / 3,
        "precision": 2 / 4,
        "object_f1": 4 / 7,
        "unique_hallucination": 2 / 4,
        "mentions": 2.5,
        "objects": 2.0,
        "words": 7.5,
        "repetition": 0.0,
        "at_limit": None,
        "empty": 0.0,
        "broken": 0.0,
    }


def test_a_corpus_without_any_object_word_divides_by_nothing():
    figures = score("A tree.", "")["overall"]
    assert (figures["CHAIRs"], figures["CHAIRi"], figures["precision"]) == (0.0, None, None)


def test_a_corpus_without_captions_has_no_figures():
    result = score()
    assert {value for name, value in result["overall"].items() if name != "captions"} == {None}
    assert result["reference"]["Len"] is None


def test_images_without_objects_have_no_recall():
    figures = score("A dog.", truth=GroundTruth({"1": frozenset()}, ()))["overall"]
    assert (figures["recall"], figures["CHAIRs"]) == (None, 1.0)


def test_an_unknown_image_counts_as_empty_and_is_reported():
    result = score("A dog.", truth=GroundTruth({"7": frozenset({"dog"})}, ()))
    assert (result["overall"]["CHAIRs"], result["unknown_images"]) == (1.0, 1)


def test_a_looping_caption_is_repetitive():
    assert score("the dog is on the mat and " * 6)["overall"]["repetition"] == 1.0


@pytest.mark.parametrize(
    ("text", "share"), [("a b c", 0.0), ("a b c d", 0.0), ("a b c d a b c d", 1 / 5)]
)
def test_the_repeated_share_is_of_4_grams_seen_before(text, share):
    assert repeated_share(text) == pytest.approx(share)


def test_captions_that_stopped_at_the_limit_are_counted_among_those_that_say_so():
    captions = [Caption(1, "A dog", at_limit=flag) for flag in (True, False, None)]
    assert score_chair(captions, TRUTH, PATTERN)["overall"]["at_limit"] == 0.5


def test_the_frontier_cuts_captions_after_whole_sentences():
    frontier = score("A dog. A cat! Two cars.")["frontier"]
    assert [(point["sentences"], point["CHAIRi"]) for point in frontier] == [
        (1, 0.0),
        (2, 1 / 2),
        (3, 2 / 3),
    ]


def test_the_frontier_is_that_of_the_cut_texts():
    text = 'The st. bernard saw "a cat." Then a bus came! Seats by a toilet. It was 5 p.m. A dog'
    frontier = score(text)["frontier"]
    cut = ['The st. bernard saw "a cat."']
    cut += [f"{cut[0]} Then a bus came!", f"{cut[0]} Then a bus came! Seats by a toilet."]
    for point, shorter in zip(frontier, cut, strict=False):
        expected = score(shorter)["overall"]
        assert (point["CHAIRi"], point["words"]) == (expected["CHAIRi"], expected["words"])


def test_marks_that_close_a_sentence_belong_to_it():
    assert sentence_ends(["a", "dog", ".", "''", "a", "cat", "?", "!", "end"]) == [4, 7, 8, 9]


TEXTS = st.lists(
    st.sampled_from(("A dog.", "A cat and a bus.", "", "Men. Two cats!", "No car.")), max_size=8
)


@settings(deadline=None)
@given(TEXTS, st.randoms(use_true_random=False))
def test_the_score_does_not_depend_on_the_order(texts, draws):
    captions = [Caption(1 + number % 2, text) for number, text in enumerate(texts)]
    shuffled = draws.sample(captions, len(captions))
    first, second = (score_chair(order, TRUTH, PATTERN) for order in (captions, shuffled))
    assert first == second


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_can_be_scored(text):
    for name in ("pattern", "fixed"):
        result = score_chair([Caption(1, text)], TRUTH, get_variant(name))
        assert result["overall"]["captions"] == 1


def test_object_sets_are_read_with_notes_beside_them(tmp_path):
    path = tmp_path / "objects.json"
    path.write_text(json.dumps({"about": "sets", "imid_to_objects": {"0012": ["dog"]}}))
    assert load_ground_truth([path], PATTERN).objects == {"12": frozenset({"dog"})}


def test_an_image_without_annotations_is_known_as_empty(tmp_path):
    path = tmp_path / "instances.json"
    content = {"images": [{"id": 3}], "annotations": [], "categories": []}
    path.write_text(json.dumps(content))
    assert load_ground_truth([tmp_path], PATTERN).objects == {"3": frozenset()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "is a list; expected an object"),
        ("{}", "no image"),
        ('{"1": ["unicorn"]}', "category 'unicorn'"),
        ('{"images": [{"id": 1}], "annotations": [{"id": 1}]}', "image_id"),
    ],
)
def test_ground_truth_of_another_shape_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "truth.json"
    path.write_text(content)
    with pytest.raises(VlmHeadsError, match=message):
        load_ground_truth([path], PATTERN)


@pytest.mark.parametrize(
    ("text", "repetitive"), [("a b c d a b c d", 0.0), ("a b c d a b c d a", 1.0)]
)
def test_a_caption_is_repetitive_above_a_fifth_of_repeated_4_grams(text, repetitive):
    assert score(text)["overall"]["repetition"] == repetitive
