"""Which words of a parsed text are the heads of noun phrases that name an object."""

from collections.abc import Sequence

from vlmheads_eval.chair.lexicon import Match, words_of
from vlmheads_eval.chair.parser import Parse

ANIMALS = frozenset("bird cat dog horse sheep cow elephant bear zebra giraffe".split())
ANIMATE = ANIMALS | {"person"}
FRUIT = ("orange", "apple", "banana")
FINITE = frozenset(("VBZ", "VBP", "VBD", "MD"))
QUANTITIES = frozenset("few dozen couple pair lot number hundred thousand million bunch".split())
VEHICLES = frozenset("bicycle car motorcycle airplane bus train truck boat".split())
MODIFIERS = frozenset(("compound", "nmod", "amod", "nummod", "quantmod", "npadvmod", "nn"))
DETERMINERS = frozenset(
    """a an the this that these those his her its their my your our some any each every another one
    two three four five six several many few no both all""".split()
)
DEFINITE = frozenset("the this that these those his her its their my your our whose".split())
PRONOUNS = frozenset("he she they we i you who it that".split())
PLURALS = frozenset("geese men women people children mice knives oxen".split())
MODAL_TAGS = ("MD", "TO")
PERSON_ENDINGS = ("er", "ers", "or", "ors", "ist", "ists", "man", "men", "woman", "women")
PERSON_MODIFIERS = frozenset("man woman men women male female lady ladies girl boy".split())
NO_PEOPLE = frozenset(
    """deer tiger panther otter beaver badger hamster lobster rooster alligator spider oyster viper
    tower water flower paper power shower door floor color number center finger shoulder sweater
    slipper slippers trailer shelter counter corner poster banner letter character""".split()
)
SPECIAL_PEOPLE = frozenset("model models scout scouts star stars cast lead leads".split())


def is_noun(parse: Parse, place: int) -> bool:
    """Return whether a token is a noun, by its tag and, where that errs, by its neighbours."""
    tag, word = parse.tags[place], parse.words[place]
    before = parse.words[place - 1] if place else ""
    if word not in words_of("verbs"):
        return True
    if place == parse.sentences[place][0]:
        return True  # Captions give no orders.
    if before in ("and", "or", ",") and parse.relations[place] in ("conj", "appos"):
        if parse.tags[parse.heads[place]].startswith("N"):
            return True
        if parse.tags[parse.heads[place]].startswith("V"):
            return False
    if tag == "NNS" and _really_verb(parse, place):
        return False
    if before in DETERMINERS - PRONOUNS or (place and parse.tags[place - 1] in ("PRP$", "POS")):
        return True
    if place and (before in PRONOUNS or parse.tags[place - 1] in MODAL_TAGS):
        return not (before in PRONOUNS or tag.startswith("V"))
    return not tag.startswith("V")


def modified(parse: Parse, place: int) -> int | None:
    """Return the noun that a noun only modifies ("bus" in "bus stop"), None for a head."""
    head, relation = parse.heads[place], parse.relations[place]
    plural = parse.words[place] in PLURALS or (
        parse.tags[place] in ("NNS", "NNPS") and parse.words[place].endswith("s")
    )
    if plural or relation not in MODIFIERS or head <= place:
        return _following(parse, place)
    if not parse.tags[head].startswith("N") or _participle(parse, place + 1):
        return None
    if _really_verb(parse, head):
        head -= 1
        if head <= place:
            return None
    between = parse.words[place + 1 : head]
    if "/" in between:
        return modified(parse, head)
    if ("and" in between or "or" in between) and (
        len(between) > 2 or (place and parse.tags[place - 1] == "DT")
    ):
        return None
    if "," in between and not parse.tags[place].startswith("J"):
        return None
    return head


def _really_verb(parse: Parse, place: int) -> bool:
    """Return whether what the parser takes for a plural is the sentence's verb: "a hen pecks"."""
    if parse.tags[place] != "NNS" or not parse.words[place].endswith("s") or not place:
        return False
    before = parse.words[place - 1]
    word = parse.words[place]
    if before in QUANTITIES or word in words_of("parts") or word in words_of("groups"):
        return False
    determiner = next(
        (parse.words[at] for at in parse.children[place] if parse.tags[at] == "DT" and at < place),
        "",
    )
    if determiner in ("a", "an") and not QUANTITIES & set(parse.words[place - 3 : place]):
        return True
    if determiner != "the" or parse.relations[place] not in ("ROOT", "pobj"):
        return False
    start, end = parse.sentences[place]
    return FINITE.isdisjoint(parse.tags[start:end])


def _participle(parse: Parse, place: int) -> bool:
    """Return whether what looks like a noun is a participle: "a bike crossing the road"."""
    if not parse.words[place].endswith("ing"):
        return False
    after = parse.tags[place + 1] if place + 1 < len(parse.tags) else ""
    return after in ("DT", "PRP$") or parse.words[place] not in words_of("ing_nouns")


def _following(parse: Parse, place: int) -> int | None:
    """Return the noun right after a singular one that the parser took for a head."""
    after = place + 1
    if after >= len(parse.words) or parse.tags[place] not in ("NN", "JJ"):
        return None
    if parse.tags[after] != "NN" or parse.relations[after] not in ("compound", "nmod"):
        return None
    head = parse.heads[after]
    return head if head > after and parse.heads[place] >= head else None


def hyphenated(parse: Parse, match: Match) -> str | None:
    """Return the word that a hyphen joins to the end of a match ("shaped" in "cat-shaped")."""
    dash, after = match.last + 1, match.last + 2
    if after >= len(parse.words) or parse.words[dash] not in ("-", "\u2010", "\u2011"):
        return None
    end = parse.starts[match.last] + len(parse.forms[match.last])
    joined = parse.starts[dash] == end and parse.starts[after] == end + 1
    return parse.words[after] if joined else None


def anchor(parse: Parse, match: Match, people: frozenset[str]) -> int | None:
    """Return the head of the noun phrase in which a match names an object, None if it names none.

    A noun that modifies another counts only with a part, a piece or a group of it: "car door",
    "orange slices", "elephant herd". The head of the phrase is then that other noun.

    Args:
        parse: the text.
        match: one of its matches.
        people: words that name a person.
    """
    suffix = hyphenated(parse, match)
    if suffix is not None:
        return match.last if suffix in words_of("hyphen_counts") else None
    single = match.first == match.last
    if single and not is_noun(parse, match.last):
        return None
    if parse.tags[match.last] in ("JJ", "RB") and parse.relations[match.last] == "acomp":
        return None
    head = modified(parse, match.last)
    if head is None:
        return None if _before_fixed_head(parse, match.last) else match.last
    if parse.heads[match.last] in range(match.first, match.last + 1):
        return match.last
    noun = parse.words[head]
    parts = words_of("parts") | words_of("groups")
    adjective = parse.tags[match.last].startswith("J") and match.entry.node not in FRUIT
    if not adjective and noun in parts:
        return head
    if match.entry.node == "person" and (noun in people or _person_by_ending(parse, match, noun)):
        return head
    return None


def _before_fixed_head(parse: Parse, place: int) -> bool:
    """Return whether a singular noun stands before one that always makes a compound of it."""
    after = place + 1
    if after >= len(parse.words) or parse.tags[place] not in ("NN", "JJ"):
        return False
    word, tag = parse.words[after], parse.tags[after]
    if word.endswith("ing") and after + 1 < len(parse.words):
        return parse.words[after + 1] in words_of("events") and tag[0] in "NV"
    return tag[0] in "NJ" and word in words_of("compound_heads")


def _person_by_ending(parse: Parse, match: Match, noun: str) -> bool:
    """Return whether an unlisted noun after "woman" and the like is somebody: "lady juggler"."""
    return parse.words[match.last] in PERSON_MODIFIERS and (
        noun in SPECIAL_PEOPLE or (noun.endswith(PERSON_ENDINGS) and noun not in NO_PEOPLE)
    )


def definite(parse: Parse, place: int) -> bool:
    """Return whether a noun phrase speaks of a certain thing: "the dog", "his dog"."""
    return any(
        (parse.relations[child] in ("det", "poss") and parse.words[child] in DEFINITE)
        or (parse.relations[child] == "poss" and definite(parse, child))
        for child in parse.children[place]
    )


def owner_counts(parse: Parse, match: Match) -> bool:
    """Return whether a genitive names its owner ("the man's tie"), not a kind ("bird's nest")."""
    mark = match.last + 1
    if mark >= len(parse.words) or parse.tags[mark] != "POS":
        return True
    thing = parse.heads[match.last]
    if thing <= match.last:
        return True
    noun = parse.words[thing]
    own = definite(parse, match.last) or definite(parse, thing)
    if noun in words_of("parts"):
        return True
    if noun in words_of("owner_only"):
        several = parse.tags[match.last] in ("NNS", "NNPS") or noun in ("seat", "room", "rooms")
        return own and not (several and match.entry.node == "person" and _kind(parse, match))
    return own or parse.words[match.last] not in GENERIC_OWNERS


GENERIC_OWNERS = frozenset("children women men ladies boys girls kids".split())


def _kind(parse: Parse, match: Match) -> bool:
    """Return whether an owner is of a kind: "men's", "driver's", not "his mother's"."""
    return not any(
        parse.relations[child] == "poss" or parse.tags[child].startswith("J")
        for child in parse.children[match.last]
    )


def likeness(parse: Parse, match: Match, head: int) -> bool:
    """Return whether its modifiers make it a toy or a figure: "toy car", "bronze horse"."""
    node = match.entry.node
    if node == "teddy bear":
        return False
    marks = words_of("toys")
    if node in ANIMATE:
        marks = marks | words_of("materials")
    elif node in VEHICLES:
        real = {"painted", "printed", "decorative", "ornamental", "mechanical", "inflatable"}
        marks = marks - real | words_of("vehicle_materials")
        if node != "boat":
            marks = marks | {"plastic", "wooden"}
    else:
        marks = marks - words_of("real_toys")
    return any(word in marks for word in modifiers_before(parse, match.first, head))


def modifiers_before(parse: Parse, first: int, head: int) -> Sequence[str]:
    """Return the adjectives and nouns of a noun phrase that stand before a place in it."""
    found = [
        parse.words[child]
        for child in parse.children[head]
        if child < first and parse.relations[child] in MODIFIERS
    ]
    place = first - 1
    while place >= 0 and parse.tags[place] in ("JJ", "NN", "NNP", "HYPH", "VBN", "VBD", "CD"):
        found.append(parse.words[place])
        if parse.tags[place] == "HYPH" and place:
            found.append(parse.words[place - 1] + "-" + parse.words[place + 1])
        place -= 1
    return found
