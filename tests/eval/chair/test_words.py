import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vlmheads_eval.chair.words import singularise, split_words

PIECES = st.sampled_from(
    """the dog cat st. dr. a. i. 3. 12.5 e.g. etc. ... .. . ! ? ." '". dog. dog's. dogs' "cat" 'cat'
    it's cannot gonna isn't x-st. u.s. p.m. -- dog--cat (dog) (dog.) dog.) dog, dog: 1,000 a,b $5
    administrators r-revised é.
    \u201ccat\u201d \u2019s no. i " ' 'tis more'n d'ye ; cat; cat! cat?" ?! dog.cat
    1. 2) #1 & * **b** 9:30 9:30. we'll. x1. 1x. lemme hot-dog, cats,, him/her - " '' ``""".split()
)
SPACES = st.sampled_from((" ", "  ", "\n", "\n\n", "\t"))


def join(parts):
    return "".join(word + space for word, space in parts).rstrip(" ")


@settings(deadline=None)
@given(st.lists(st.tuples(PIECES, SPACES), max_size=12).map(join))
@example("no. 3. administrators said. the cat")
def test_words_are_those_of_nltk(nltk_data, text):
    import nltk

    assert split_words(text) == nltk.word_tokenize(text)


@settings(deadline=None)
@given(st.text(max_size=40).map(str.lower))
def test_words_of_any_text_are_those_of_nltk(nltk_data, text):
    import nltk

    assert split_words(text) == nltk.word_tokenize(text)


def test_words_of_real_captions_are_those_of_nltk(nltk_data, shared):
    import nltk

    lines = shared("captions/opera_instructblip_greedy.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["caption"].lower() for line in lines]
    assert [split_words(text) for text in texts] == [nltk.word_tokenize(text) for text in texts]


def test_only_the_last_period_of_a_sentence_is_a_word_of_its_own():
    assert split_words("the st. bernard sleeps. it is 3.5 m. long") == [
        *("the", "st.", "bernard", "sleeps", ".", "it", "is", "3.5", "m.", "long")
    ]


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
