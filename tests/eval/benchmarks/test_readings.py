import pytest
from vlmheads_eval.benchmarks.readings import exactly, first_word, mme, sentence


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("**Yes**, it is.", "yes"),
        ("NO, never", "no"),
        ("Yes, no doubt", "yes"),
        ("No, yes would be wrong", "no"),
        ("Yes/No", None),
        ("yes or no", None),
        ("Yes and no", None),
        ("No / yes", None),
        ("Not sure", None),
        ("Nope", None),
        ("The answer is yes", None),
        ("Eyes", None),
        ("", None),
        ("?!", None),
    ],
)
def test_the_first_word_must_be_one_of_the_two(answer, said):
    assert first_word(answer) == said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("yes.", "yes"),
        ("There is a dog on the left.", "yes"),
        ("There is no dog in the image.", "no"),
        ("There isn\u2019t a dog.", "no"),
        ("The sky is not sunny, it is cloudy.", "no"),
        ("The sky is sunny.", "yes"),
        ("The image does not show two people; it shows three.", "no"),
        ("The man is wearing a hat, but not a tie.", "yes"),
        ("In this image, the grass is green.", "yes"),
        ("It cannot be seen.", "no"),
        ("It is not clear from the image.", None),
        ("I cannot tell.", None),
        ("I'm not sure.", None),
        ("I don't know", None),
        ("Unknown", None),
        ("Sorry, I can't answer that.", None),
        ("Yes or no", None),
        ("Maybe there is a dog.", None),
        ("", None),
    ],
)
def test_a_sentence_says_what_it_states(answer, said):
    assert sentence(answer) == said


def test_amber_counts_only_its_two_strings():
    assert [exactly(answer) for answer in ("Yes", "No", "yes", "No.", " Yes")] == [
        "yes",
        "no",
        None,
        None,
        None,
    ]


def test_mme_strips_nothing_and_needs_four_characters():
    assert mme("    yes") is None
    assert mme(" yes") == "yes"
