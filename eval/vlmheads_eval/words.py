"""Words of a lower-case English text, exactly those of NLTK's `word_tokenize`, without its data."""

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from vlmheads.errors import VlmHeadsError

if TYPE_CHECKING:
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

# What the English Punkt model takes for an abbreviation. Of the rest of the model hardly anything
# bears on lower-case text: collocations and sentence starters only ever decide before a capital.
ABBREVIATIONS = frozenset(
    """a.a a.c a.d a.g a.h a.m a.m.e a.s a.t adm ala ariz aug ave b.f b.v bros c c.i.t c.o.m.b
    c.v calif chg cie co col colo conn corp cos ct d d.c d.h d.w dec dr e e.f e.h e.l e.m f f.g
    f.j feb fla fri ft g g.d g.f g.k ga gen h h.c h.f h.m i.m.s ill inc j.b j.c j.j j.k j.p j.r
    jan jr k kan ky l l.a l.f l.p lt ltd m m.b.a m.d.c m.j maj messrs mg mich minn mr mrs ms n
    n.c n.d n.h n.j n.m n.v n.y nev nov oct ok okla ore p p.a.m p.m pa ph.d prof r r.a r.h r.i
    r.j r.k r.t rep reps s s.a s.a.y s.c s.g s.p.a s.s sen sep sept sr st sw t t.j tenn tues u.k
    u.n u.s u.s.a u.s.s.r v va vs vt w w.c w.r w.va w.w wash wed wis yr""".split()
) | {". . "}
# After a number or an initial these four may start a sentence, no other lower-case word may.
SENTENCE_STARTERS = ("administrators", "b-week", "r-revised", "z-holiday")
MAY_START_IN_LOWER_CASE = 1 << 4  # The flag of Punkt's orthographic context.

# Chunks between white space whose words depend on nothing around them.
PLAIN = re.compile(r"-|([^\W_]+(?:[-'/][^\W_]+)*)([,;:]?)")
# Chunks that end a sentence whatever follows in letters: two letters at least, so no initial.
CLOSING = re.compile(r"((?:[^\W\d_]+-)*[^\W\d_]{2,})([.!?])")
# Words of letters alone that NLTK takes apart.
CONTRACTED = frozenset(("cannot", "gimme", "gonna", "gotta", "lemme", "wanna"))


def split_words(text: str) -> list[str]:
    """Return the words of a lower-case text, those of `nltk.word_tokenize(text)`.

    Sentences are split first, because only a sentence's last period is a word of its own; the
    abbreviations of the Punkt model are all that is needed of it once letters are lower-case.
    """
    words = _chunked_words(text)
    return _segmented_words(text) if words is None else words


def _segmented_words(text: str) -> list[str]:
    """Return the words of any text: NLTK is asked only for sentences with something odd in them.

    Behind a closing chunk and before a letter or digit a sentence ends whatever stands around, so
    that the text can be cut there.
    """
    words: list[str] = []
    segment: list[str] | None = []  # The segment's words, None once NLTK has to be asked.
    start = 0
    chunks = list(re.finditer(r"\S+", text))
    for position, chunk in enumerate(chunks, 1):
        parts, closes = chunk_words(chunk.group())
        following = chunks[position] if position < len(chunks) else None
        ends = following is None or (closes and following.group()[0].isalnum())
        if parts is None or (closes and not ends):
            segment = None
        elif segment is not None:
            segment += parts if closes or not ends else _final_words(chunk.group())
        if ends:
            end = len(text) if following is None else chunk.end()
            words += _nltk_words(text[start:end]) if segment is None else segment
            segment, start = [], 0 if following is None else following.start()
    return words


def _nltk_words(text: str) -> list[str]:
    tokenise = _tokeniser().tokenize
    try:
        return [word for sentence in _sentences().tokenize(text) for word in tokenise(sentence)]
    except TimeoutError as error:
        raise VlmHeadsError(
            f"{len(text)} characters without a plain sentence end, which NLTK cannot take apart "
            "in time",
            "a caption as models write them",
        ) from error


def _chunked_words(text: str) -> list[str] | None:
    """Return the words of a text in which every chunk is plain, None for any other text."""
    words: list[str] = []
    chunks = text.split()
    last = len(chunks) - 1
    for position, chunk in enumerate(chunks):
        parts, closes = chunk_words(chunk)
        if parts is None or (closes and position != last and not chunks[position + 1][0].isalnum()):
            return None
        words += parts if position != last or closes else _final_words(chunk)
    return words


@lru_cache(maxsize=65536)
def chunk_words(chunk: str) -> tuple[tuple[str, ...] | None, bool]:
    """Return the words of one chunk, None where they depend on its place, and whether it closes."""
    match = PLAIN.fullmatch(chunk)
    if match:
        # A word after it keeps the chunk from being a sentence's end.
        return _word_and_mark(match) or tuple(_tokeniser().tokenize(chunk + " x")[:-1]), False
    match = CLOSING.fullmatch(chunk)
    if match and not _abbreviated(chunk):
        return _word_and_mark(match) or _final_words(chunk), True
    return None, False


def _word_and_mark(match: re.Match[str]) -> tuple[str, ...]:
    """Return a word of letters and the mark behind it, nothing for any other chunk."""
    word, mark = match.groups()
    if word is None or not word.isalpha() or word in CONTRACTED:
        return ()
    return (word, mark) if mark else (word,)


@lru_cache(maxsize=65536)
def _final_words(chunk: str) -> tuple[str, ...]:
    return tuple(_tokeniser().tokenize(chunk))


def _abbreviated(chunk: str) -> bool:
    return chunk.endswith(".") and not ABBREVIATIONS.isdisjoint(
        (chunk[:-1], chunk[:-1].rsplit("-", 1)[-1])
    )


@cache
def _tokeniser() -> "NLTKWordTokenizer":
    """Import NLTK when the first text is read: the command line must not wait for it."""
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError as error:
        raise VlmHeadsError(
            "nltk is not installed", todo="install it with pip install 'vlmheads[eval]'"
        ) from error
    return NLTKWordTokenizer()


@cache
def _sentences() -> "PunktSentenceTokenizer":
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    for word in SENTENCE_STARTERS:
        parameters.add_ortho_context(word, MAY_START_IN_LOWER_CASE)
    splitter = PunktSentenceTokenizer()
    splitter._params = parameters
    return splitter
