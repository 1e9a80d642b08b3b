"""What the evaluator relies on in NLTK: each test names what moved if it fails."""

import inspect

from vlmheads_eval.compat import lemmatiser, sentence_splitter, tagger, tokeniser


def test_the_word_tokeniser_splits_contractions_and_the_last_period():
    words = tokeniser().tokenize("it can't rain. no.")
    assert words == ["it", "ca", "n't", "rain.", "no", "."], (
        "NLTKWordTokenizer in nltk.tokenize.destructive splits words in another way: compare "
        "split_words with nltk.word_tokenize"
    )


def test_the_sentence_splitter_takes_parameters_in_place_of_a_text():
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    assert "train_text" in inspect.signature(PunktSentenceTokenizer).parameters, (
        "PunktSentenceTokenizer no longer takes `train_text`, through which it is given parameters"
    )
    assert sentence_splitter({"st"}, ()).tokenize("a st. bernard. a dog.") == [
        "a st. bernard.",
        "a dog.",
    ], "PunktSentenceTokenizer no longer uses the abbreviations (abbrev_types) it is given"


def test_the_sentence_splitter_knows_which_words_may_start_a_sentence():
    text = "no. 3. administrators said."
    without = sentence_splitter({"no"}, ()).tokenize(text)
    starting = sentence_splitter({"no"}, ("administrators",)).tokenize(text)
    assert (len(without), len(starting)) == (1, 2), (
        "the flag 1 << 4 of PunktParameters.add_ortho_context no longer lets a word start "
        "a sentence in lower case"
    )


def test_the_tagger_tags_lists_of_words_with_penn_tags(nltk_data):
    assert tagger().tag(["two", "dogs"])[1] == ("dogs", "NNS"), (
        "PerceptronTagger in nltk.tag no longer returns (word, Penn tag) pairs"
    )


def test_the_lemmatiser_knows_parts_of_speech(nltk_data):
    assert (lemmatiser().lemmatize("dogs", "n"), lemmatiser().lemmatize("was", "v")) == (
        "dog",
        "be",
    ), "WordNetLemmatizer in nltk.stem no longer takes a part of speech"
