"""Words of English text: split as NLTK splits them, in the singular and in the plural."""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.compat import sentence_splitter, tokeniser

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

# The abbreviations of the English Punkt model. Hardly anything else in the model matters for
# lower-case text: collocations and sentence starters only decide before a capital letter.
ABBREVIATIONS = frozenset(
    """a.a a.c a.d a.g a.h a.m a.m.e a.s a.t adm ala ariz aug ave b.f b.v bros c c.i.t c.o.m.b
    c.v calif chg cie co col colo conn corp cos ct d d.c d.h d.w dec dr e e.f e.h e.l e.m f f.g
    f.j feb fla fri ft g g.d g.f g.k ga gen h h.c h.f h.m i.m.s ill inc j.b j.c j.j j.k j.p j.r
    jan jr k kan ky l l.a l.f l.p lt ltd m m.b.a m.d.c m.j maj messrs mg mich minn mr mrs ms n
    n.c n.d n.h n.j n.m n.v n.y nev nov oct ok okla ore p p.a.m p.m pa ph.d prof r r.a r.h r.i
    r.j r.k r.t rep reps s s.a s.a.y s.c s.g s.p.a s.s sen sep sept sr st sw t t.j tenn tues u.k
    u.n u.s u.s.a u.s.s.r v va vs vt w w.c w.r w.va w.w wash wed wis yr""".split()
) | {". . "}
# The only lower-case words that may start a sentence after a number or an initial.
SENTENCE_STARTERS = ("administrators", "b-week", "r-revised", "z-holiday")

# Chunks between white space whose words do not depend on their context.
PLAIN = re.compile(r"-|([^\W_]+(?:[-'/][^\W_]+)*)([,;:]?)")
# Chunks that end a sentence whatever word follows: at least two letters, so not an initial.
CLOSING = re.compile(r"((?:[^\W\d_]+-)*[^\W\d_]{2,})([.!?])")
# Words without punctuation that NLTK splits.
CONTRACTED = frozenset(("cannot", "gimme", "gonna", "gotta", "lemme", "wanna"))


def split_words(text: str) -> list[str]:
    """Return the words of a lower-case text, equal to `nltk.word_tokenize(text)`.

    Sentences are split first, because only the last period of a sentence is a separate word; for
    lower-case text this needs only the abbreviations of the Punkt model.
    """
    words = _chunked_words(text)
    return _segmented_words(text) if words is None else words


def _segmented_words(text: str) -> list[str]:
    """Return the words of any text, passing only unusual sentences to NLTK.

    Between a closing chunk and a letter or digit a sentence always ends, so the text can be split
    there.
    """
    words: list[str] = []
    segment: list[str] | None = []  # The segment's words; None once NLTK is needed.
    start = 0
    chunks = list(re.finditer(r"\S+", text))
    for position, chunk in enumerate(chunks, 1):
        parts, closes = chunk_words(chunk.group())
        following = chunks[position] if position < len(chunks) else None
        ends = following is None or (closes and following.group()[0].isalnum())
        if parts is None or (closes and not ends):
            segment = None
        elif segment is not None:
            segment += parts if closes or not ends else final_words(chunk.group())
        if ends:
            end = len(text) if following is None else chunk.end()
            words += _nltk_words(text[start:end]) if segment is None else segment
            segment, start = [], 0 if following is None else following.start()
    return words


def _nltk_words(text: str) -> list[str]:
    tokenise = tokeniser().tokenize
    try:
        return [word for sentence in _sentences().tokenize(text) for word in tokenise(sentence)]
    except TimeoutError as error:
        raise VlmHeadsError(
            f"{len(text)} characters without a plain sentence end, which NLTK cannot split in time",
            "text that looks like a caption",
        ) from error


@cache
def _sentences() -> "PunktSentenceTokenizer":
    return sentence_splitter(ABBREVIATIONS, SENTENCE_STARTERS)


def _chunked_words(text: str) -> list[str] | None:
    """Return the words of a text made of plain chunks only, or None."""
    words: list[str] = []
    chunks = text.split()
    last = len(chunks) - 1
    for position, chunk in enumerate(chunks):
        parts, closes = chunk_words(chunk)
        if parts is None or (closes and position != last and not chunks[position + 1][0].isalnum()):
            return None
        words += parts if position != last or closes else final_words(chunk)
    return words


@lru_cache(maxsize=65536)
def chunk_words(chunk: str) -> tuple[tuple[str, ...] | None, bool]:
    """Return a chunk's words (None: they depend on context), and whether it ends a sentence."""
    match = PLAIN.fullmatch(chunk)
    if match:
        # The word appended keeps the chunk from ending the sentence.
        return _word_and_mark(match) or tuple(tokeniser().tokenize(chunk + " x")[:-1]), False
    match = CLOSING.fullmatch(chunk)
    if match and not _abbreviated(chunk):
        return _word_and_mark(match) or final_words(chunk), True
    return None, False


def _word_and_mark(match: re.Match[str]) -> tuple[str, ...]:
    """Return a word of letters and the mark after it, or nothing for any other chunk."""
    word, mark = match.groups()
    if word is None or not word.isalpha() or word in CONTRACTED:
        return ()
    return (word, mark) if mark else (word,)


@lru_cache(maxsize=65536)
def final_words(chunk: str) -> tuple[str, ...]:
    """Return the words of a chunk that ends its sentence."""
    return tuple(tokeniser().tokenize(chunk))


def _abbreviated(chunk: str) -> bool:
    return chunk.endswith(".") and not ABBREVIATIONS.isdisjoint(
        (chunk[:-1], chunk[:-1].rsplit("-", 1)[-1])
    )


# Second parts that make a hyphenated compound inflect on its first part (mothers-in-law).
PREPOSITIONS = frozenset(
    """about above across after among around at athwart before behind below beneath beside besides
    between betwixt beyond but by during except for from in into near of off on onto out over since
    till to under until unto upon with""".split()
)

# A word that is the *end* of one of these stays as it is. The reference tests it that way round,
# which is the only reason why "is" (debris) and "as" (christmas) keep their s.
UNCHANGED = tuple(
    """bison bream breeches britches carp chassis christmas clippers cod contretemps corps debris
    diabetes djinn eland elk flounder gallows georgia graffiti headquarters herpes high-jinks
    homework innings jackanapes mackerel measles mews mumps news pincers pliers proceedings rabies
    salmon scissors series shears species swine swiss trout tuna whiting wildebeest
    advice bread butter cheese electricity equipment fruit furniture garbage gravel happiness
    information ketchup knowledge love luggage mathematics mayonnaise meat mustard progress research
    rice sand software understanding water""".split()
)
UNCHANGED_ENDS = frozenset(word[start:] for word in UNCHANGED for start in range(len(word) + 1))

# Words in -ie whose plural the reference returns as it came, so that "cookies" stays "cookies".
KEPT_PLURALS = tuple(
    stem + "s"
    for stem in """alergie auntie beanie birdie bogie bombie collie cookie cutie doggie eyrie
    freebie goonie groupie hankie hippie hoagie hottie indie junkie laddie laramie lingerie meanie
    newbie nightie oldie pixie quickie reverie rookie softie sortie stoolie sweetie techie toughie
    valkyrie veggie weenie yuppie zombie""".split()
)

# Endings with a singular of their own; "our" -> "my" makes "four" "fmy" in the reference too.
IRREGULAR_SINGULARS = dict(
    pair.split(":")
    for pair in """atlantes:atlas atlases:atlas axes:axe beeves:beef brethren:brother children:child
    corpora:corpus corpuses:corpus ephemerides:ephemeris feet:foot ganglia:ganglion geese:goose
    genera:genus genii:genie graffiti:graffito helves:helve kine:cow leaves:leaf loaves:loaf men:man
    mongooses:mongoose monies:money moves:move mythoi:mythos numena:numen occipita:occiput
    octopodes:octopus opera:opus opuses:opus our:my oxen:ox penes:penis penises:penis people:person
    sexes:sex soliloquies:soliloquy teeth:tooth testes:testis trilbys:trilby turves:turf
    zoa:zoon""".split()
)


class Ending(NamedTuple):
    """A rule for words with one of these endings: how many letters to cut, and what to add."""

    endings: tuple[str, ...]
    cut: int
    add: str
    barred: str | None = None  # Letters that must not precede it; "" requires some letter.


def _ending(
    endings: str, cut: int, add: str = "", barred: str | None = None, start: str = ""
) -> Ending:
    return Ending(tuple(start + ending for ending in endings.split()), cut, add, barred)


# Tried in this order; the first match decides.
ENDINGS = (
    _ending("ae", 1, barred=""),
    _ending("itis", 0, barred=""),
    _ending("eaux", 1, barred=""),
    _ending("quizzes", 3),
    _ending("matrices", 3, "x"),
    _ending("apices vertices indices", 4, "ex"),
    _ending("aliases statuses", 2),
    # Two character classes of the reference name single letters where it meant whole stems.
    _ending("oi ci ti pi |i vi ii ri", 1, "us"),
    _ending("crises axes testes", 2, "is"),
    _ending("shoes", 1),
    _ending("oes buses", 2),
    _ending("mice |ice lice", 3, "ouse"),
    _ending("xes ches sses shes", 2),
    _ending("movies", 1),
    _ending("ombies", 1, barred=""),
    _ending("series", 0),
    _ending("ies", 3, "y", barred="aeiouy"),
    _ending("quies", 3, "y"),
    _ending("alves elves olves", 3, "f"),
    _ending("eaves", 3, "f", barred="d"),
    _ending("arves", 3, "f"),
    _ending("erves", 1),
    _ending("nives lives wives", 3, "fe"),
    _ending("lves rves", 3, "f"),
    _ending("aves eves oves sives tives hives", 1),
    _ending("ves", 3, "fe", barred="f"),
    _ending("bases parentheses prognoses synopses theses diagnoses", 2, "is"),
    _ending("opses yses", 2, "is", barred=""),
    _ending("hoses doses roses ooses noses boses closes poses", 1),
    _ending("fructose glucose galactose lactose ketose maltose ribose saccharose cellulose", 0),
    _ending("oses", 2, "is", barred=""),
    _ending("ta ia", 1, "um"),
    _ending("news", 0),
    _ending("s", 1),
)


@lru_cache(maxsize=65536)
def singularise(word: str) -> str:
    """Return the singular of a lower-case word, as CHAIR's `pattern` variant does.

    It is applied to every token, verbs and function words included: "has" becomes "ha", "bus"
    becomes "bu", "is" stays. The rules are those of the inflector of Bermi Ferrer Martinez with the
    word lists of pattern.en, which the CHAIR script of Rohrbach et al. (2018) calls.
    """
    first, *rest = word.split("-")
    if rest and rest[0] in PREPOSITIONS:
        return "-".join((singularise(first), *rest))
    if word.endswith("'"):
        return singularise(word[:-1]) + "'s"
    if word in UNCHANGED_ENDS or word.endswith(KEPT_PLURALS):
        return word
    for ending, singular in IRREGULAR_SINGULARS.items():
        if word.endswith(ending):
            return word[: -len(ending)] + singular
    return _regular_singular(word)


def _regular_singular(word: str) -> str:
    if word.startswith("oxen"):
        return "ox" + word[4:]
    if word.endswith("analyses"):
        # In a longer word the reference repeats the "a" (psychoanalyasis).
        return word[:-3] + ("sis" if word == "analyses" else "asis")
    for rule in ENDINGS:
        for ending in rule.endings:
            if word.endswith(ending) and _fits(word, ending, rule.barred):
                return word[: len(word) - rule.cut] + rule.add
    return word


def _fits(word: str, ending: str, barred: str | None) -> bool:
    if barred is None:
        return True
    before = word[: -len(ending)][-1:]
    return bool(before) and before not in barred


IRREGULAR_PLURALS = {
    "aircraft": ("aircraft",),
    "bison": ("bison",),
    "buffalo": ("buffalo", "buffaloes"),
    "calf": ("calves",),
    "cattle": ("cattle",),
    "child": ("children",),
    "children": ("children",),
    "foot": ("feet",),
    "goose": ("geese",),
    "half": ("halves",),
    "knife": ("knives",),
    "leaf": ("leaves",),
    "loaf": ("loaves",),
    "luggage": ("luggage",),
    "mouse": ("mice",),
    "ox": ("oxen",),
    "oxen": ("oxen",),
    "people": ("people",),
    "person": ("people", "persons"),
    "scissors": ("scissors",),
    "scarf": ("scarves", "scarfs"),
    "sheep": ("sheep",),
    "shelf": ("shelves",),
    "skis": ("skis",),
    "thief": ("thieves",),
    "tooth": ("teeth",),
    "watercraft": ("watercraft",),
    "waterfowl": ("waterfowl", "waterfowls"),
    "wolf": ("wolves",),
}
SIBILANTS = ("s", "x", "z", "ch", "sh")


def plurals(noun: str) -> tuple[str, ...]:
    """Return the plural forms of a noun or noun phrase ("bus": "buses", "busses")."""
    head, space, last = noun.rpartition(" ")
    for ending, forms in IRREGULAR_PLURALS.items():
        # A compound inflects like its last part (pocketknife, grandchild).
        if last == ending or (len(ending) > 4 and last.endswith(ending)):
            return tuple(head + space + last[: -len(ending)] + form for form in forms)
    return tuple(head + space + form for form in _regular_plurals(last))


def _regular_plurals(word: str) -> tuple[str, ...]:
    if word.endswith("man") and word not in ("human", "german", "ottoman"):
        return (word[:-2] + "en",)
    if word.endswith("us"):
        return (word + "es", word + "ses")
    if word.endswith(SIBILANTS):
        return (word + "es",)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (word[:-1] + "ies",)
    if word.endswith("o"):
        return (word + "s", word + "es")
    return (word + "s",)


def word_places(text: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """Return start and end of each word in its lower-case text, None for rewritten quotes."""
    places: list[tuple[int, int] | None] = []
    cursor = 0
    for word in words:
        found = text.find(word, cursor)
        if found < 0:
            places.append(None)
            continue
        cursor = found + len(word)
        places.append((found, cursor))
    return places
