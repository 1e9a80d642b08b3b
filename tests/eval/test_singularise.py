import pytest
from vlmheads_eval.singularise import singularise


def test_every_word_of_the_reference_table_has_its_singular(shared_json):
    table = shared_json("chair/singularize_golden.json")
    wrong = {word: singularise(word) for word in table if singularise(word) != table[word]}
    assert wrong == {}


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("bus", "bu"),
        ("has", "ha"),
        ("is", "is"),
        ("four", "fmy"),
        ("cookies", "cookies"),
        ("ties", "ty"),
        ("hands-on", "hand-on"),
        ("dogs'", "dog's"),
        ("'", "'s"),
        ("", ""),
        ("analyses", "analysis"),
        ("psychoanalyses", "psychoanalyasis"),
        ("octopi", "octopus"),
        ("matrices", "matrix"),
        ("wolves", "wolf"),
        ("weaves", "weaf"),
        ("eaves", "eave"),
        ("loses", "losis"),
        ("closes", "close"),
        ("bacteria", "bacterium"),
        ("oxenford", "oxford"),
    ],
)
def test_the_faults_of_the_reference_are_kept(word, singular):
    assert singularise(word) == singular
