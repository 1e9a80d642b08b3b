"""The readings of CHAIR that the literature mixes, and ours, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.fixed import fixed_finder, mended_coco
from vlmheads_eval.reading import LINEAGES, Finder, Reading, find_mentions
from vlmheads_eval.singularise import singularise
from vlmheads_eval.vocabulary import Vocabulary, coco_vocabulary, load_vocabulary
from vlmheads_eval.words import split_words


@dataclass(frozen=True)
class Lineage:
    """One way to read captions.

    Args:
        name: "pattern", "wordnet" or "fixed".
        words: from a caption to its words in the form that is looked up.
        find: from such words, or the first of them, to the mentions among them.
        vocabulary: the words and categories that it counts.
    """

    name: str
    words: Callable[[str], list[str]]
    find: Finder
    vocabulary: Vocabulary

    def read(self, caption: str) -> Reading:
        """Return the mentions of a caption."""
        return self.find(self.words(caption))


def lineage(name: str = "pattern", vocabulary: Path | None = None) -> Lineage:
    """Return a reading of captions by its name.

    Args:
        name: "pattern" as the CHAIR script of Rohrbach et al. (2018) and its standalone port;
            "wordnet" as the OPERA variant of it, which most papers since 2024 use; "fixed" as
            "pattern" should have been (docs/evaluation.md). Numbers of two must not be mixed.
        vocabulary: a JSON file of other categories, for "fixed" alone.
    """
    if name not in LINEAGES:
        raise VlmHeadsError(f"lineage {name!r}", " or ".join(LINEAGES))
    if name == "fixed":
        table = load_vocabulary(vocabulary) if vocabulary else mended_coco()
        return Lineage(name, plain_words, fixed_finder(table, coco=vocabulary is None), table)
    if vocabulary:
        raise VlmHeadsError(
            f"a vocabulary of your own with the lineage {name!r}",
            "the lineage 'fixed'",
            "the others reproduce a reference that knows COCO's 80 categories alone",
        )
    if name == "wordnet":
        tagger(), lemmatiser()  # Missing data is said before the first caption.
    words = pattern_words if name == "pattern" else wordnet_words
    table = coco_vocabulary()
    return Lineage(name, words, partial(find_mentions, vocabulary=table), table)


def plain_words(caption: str) -> list[str]:
    """Return a caption's words in lower case and otherwise as they are."""
    return split_words(caption.lower())


def pattern_words(caption: str) -> list[str]:
    """Return a caption's words, each put into the singular, verbs and function words too."""
    return [singularise(word) for word in split_words(caption.lower())]


def wordnet_words(caption: str) -> list[str]:
    """Return a caption's words as lemmas of WordNet 3.0, by the part of speech that NLTK tags."""
    tagged = tagger().tag(split_words(caption.lower()))
    return [_lemma(word, _WORDNET_TAGS.get(tag[:1], "n")) for word, tag in tagged]


_WORDNET_TAGS = {"J": "a", "V": "v", "N": "n", "R": "r"}


@lru_cache(maxsize=65536)
def _lemma(word: str, part_of_speech: str) -> str:
    lemma: str = lemmatiser().lemmatize(word, part_of_speech)
    return lemma


@cache
def tagger() -> Any:
    """Return NLTK's English part-of-speech tagger, loaded once."""
    from nltk.tag import PerceptronTagger

    return with_nltk_data(PerceptronTagger, "averaged_perceptron_tagger_eng")


@cache
def lemmatiser() -> Any:
    """Return NLTK's WordNet lemmatiser, its data loaded."""
    from nltk.stem import WordNetLemmatizer

    wordnet = WordNetLemmatizer()
    with_nltk_data(partial(wordnet.lemmatize, "dogs", "n"), "wordnet")
    return wordnet


def with_nltk_data(load: Callable[[], Any], resource: str) -> Any:
    """Return what `load` returns, or say which of NLTK's data are missing and how to get them."""
    try:
        return load()
    except LookupError as error:
        raise VlmHeadsError(
            f"NLTK finds no {resource}",
            "NLTK's data in a folder that NLTK_DATA names",
            f"run `python -m nltk.downloader {resource}` once with a network, "
            "(the lineages pattern and fixed need none)",
        ) from error


NLTK_RESOURCES = ("averaged_perceptron_tagger_eng", "punkt_tab", "wordnet")


def download_nltk_data() -> None:
    """Fetch the data of the lineage "wordnet" and of AMBER with NLTK's own downloader."""
    import nltk

    for resource in NLTK_RESOURCES:
        if not nltk.download(resource, quiet=True):
            raise VlmHeadsError(
                f"NLTK could not fetch {resource}", "a network", "or set NLTK_DATA to its data"
            )
