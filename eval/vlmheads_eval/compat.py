"""What the evaluator takes from NLTK: tokeniser, sentence splitter, tagger, lemmatiser, data."""

from collections.abc import Callable, Collection
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from vlmheads.errors import VlmHeadsError, install_hint

if TYPE_CHECKING:
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

MAY_START_IN_LOWER_CASE = 1 << 4  # The flag of Punkt's orthographic context.


@cache
def tokeniser() -> "NLTKWordTokenizer":
    """Return NLTK's word tokeniser, imported at first use so that `--help` stays fast."""
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError as error:
        raise VlmHeadsError(
            "nltk is not installed", todo=f"install it with {install_hint('eval')}"
        ) from error
    return NLTKWordTokenizer()


def sentence_splitter(
    abbreviations: Collection[str], starters: Collection[str]
) -> "PunktSentenceTokenizer":
    """Return NLTK's Punkt sentence splitter with parameters given here, so that it needs no data.

    Args:
        abbreviations: words whose period does not end a sentence.
        starters: lower-case words that may start one.
    """
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(abbreviations)
    for word in starters:
        parameters.add_ortho_context(word, MAY_START_IN_LOWER_CASE)
    return PunktSentenceTokenizer(parameters)  # Documented: parameters in place of a text.


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
    """Return what `load` returns, or say which NLTK data are missing and how to get them."""
    try:
        return load()
    except LookupError as error:
        raise VlmHeadsError(
            f"NLTK cannot find {resource}",
            "NLTK's data in a folder named by NLTK_DATA",
            f"run `python -m nltk.downloader {resource}` once while online "
            "(the variants pattern and fixed need no data)",
        ) from error


NLTK_RESOURCES = ("averaged_perceptron_tagger_eng", "punkt_tab", "wordnet")


def download_nltk_data() -> None:
    """Fetch the data for the variant "wordnet" and for AMBER with NLTK's own downloader."""
    import nltk

    for resource in NLTK_RESOURCES:
        if not nltk.download(resource, quiet=True):
            raise VlmHeadsError(
                f"NLTK could not fetch {resource}",
                "network access",
                "or set NLTK_DATA to a copy of it",
            )
