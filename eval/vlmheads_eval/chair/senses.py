"""Whether a word of COCO's vocabulary has another sense in a parsed text."""

from collections.abc import Sequence
from functools import cache

from vlmheads_eval.chair.lexicon import Match, words_of
from vlmheads_eval.chair.parser import Parse
from vlmheads_eval.chair.phrases import DETERMINERS
from vlmheads_eval.chair.scope import leftmost

# Words with another sense -> words of which the caption must have one ("": none), and words that
# it must not have in the sentence.
SENSES: Sequence[tuple[str, str, str]] = (
    (
        "mouse mice",
        "",
        """cheese nibble nibbles nibbling squeak squeaks trap traps rodent rodents burrow scurry
        scurries scurrying whiskers hawk owl kite hunts hunting field barn snake""",
    ),
    (
        "pitcher pitchers",
        "",
        """water beer lemonade milk tea juice pour pours pouring pitcherful ceramic sangria iced jug
        wine glasses porcelain""",
    ),
    (
        "bat bats",
        """baseball batter swing swings swinging ball player players umpire catcher hit hits hitting
        pitch plate softball cricket hitter helmet game league mitt bases""",
        "cave hangs wings flies fly flying night vampire",
    ),
    (
        "crane cranes",
        """wade wades wading marsh pond lake river wing wings feather feathers flock beak nest nests
        bird birds water flying flies reeds wetland migrating""",
        "construction steel beams lifts lifting building load cargo tower hook port scaffolding",
    ),
    (
        "notebook notebooks",
        "computer screen keyboard pc charger typing",
        "pen pencil pencils paper",
    ),
    (
        "bow bows",
        "neck collar suit tuxedo shirt wears wearing dressed",
        "arrow arrows archer violin cello hair gift present wrapped ribbon ship boat stern string",
    ),
    ("tie ties", "", "game score match tied ended season railroad rails track tracks arrow"),
    ("table tables", "", "chart statistics chapter report appendix multiplication"),
    (
        "keyboard keyboards",
        "",
        "piano musician band song synthesizer guitar drums singer stage melody concert organ",
    ),
    (
        "racket rackets racquet",
        "",
        "loud noise noisy deafening awful awake",
    ),
    ("jet jets", "", "fountain squirts hose whirlpool nozzle shoots sprays"),
    (
        "fan",
        "cheer cheers cheering game stadium team crowd stands match sport watch watching his her",
        "ceiling blade blades cool cooling air spins whirs",
    ),
    ("fans", "", "ceiling blade blades cool cooling air spin whir electric table"),
    (
        "model models",
        "wears wearing wear poses posing pose walks walking runway fashion catwalk",
        "train car airplane scale",
    ),
    (
        "band bands",
        "play plays playing perform performs music stage marching concert mariachi rock jazz",
        "rubber elastic watch wrist arm head wedding hat",
    ),
    ("sub", "", "surfaces bay sea ocean navy dives periscope underwater"),
    ("batter", "", "whisk flour pancake cake bowl mix mixes cookie dough pan"),
    ("seat", "", "parliament county senate congress"),
    ("cell", "", "prison"),
    ("ram rams", "", "computer memory gigabytes"),
    ("kite kites", "", "circles hunting prey feathers cliffs nest beak soars glides talons"),
    ("plane planes", "", "geometry tangent inclined woodworking wood carpenter smooth shavings"),
    ("chick", "", "flick"),
    ("trolley", "", "pushes pushing push shopping luggage tea dessert airport supermarket cart"),
    ("server", "restaurant tray plate menu drink drinks customer", "rack computer data"),
    ("judge", "", "appears"),
    ("seal", "", ""),
)
MEATS = frozenset("chicken chickens turkey duck goose lamb fowl poultry goat buffalo".split())


def other_sense(parse: Parse, match: Match, head: int) -> bool:
    """Return whether a word has another sense here: a jug that is a pitcher, a duck to eat."""
    word = parse.words[match.last]
    start = parse.sentences[match.last][0]
    around = set(parse.near(match.last)) - {word}
    after = parse.words[match.last + 1] if match.last + 1 < len(parse.words) else ""
    if match.first == match.last and word in _senses():
        needed, barred = _senses()[word]
        if barred & around or (needed and needed.isdisjoint(parse.words)):
            return True
    if word in ("jet", "bed", "couple", "family", "team", "crew", "sea", "basin") and after == "of":
        return True
    if word in ("tie", "ties") and after == "between":
        return True
    if word == "chair" and after == "of":
        return bool({"committee", "board", "department", "party", "meeting", "panel"} & around)
    if word in MEATS and match.first == match.last:
        return _food(parse, match, head, around)
    if word in ("orange", "apple") and match.entry.node == word:
        name = parse.forms[match.last].istitle() and match.last > start
        return name or (word == "orange" and _colour(parse, match, head))
    return False


def _food(parse: Parse, match: Match, head: int, around: set[str]) -> bool:
    before = parse.words[match.first - 1] if match.first else ""
    if before in words_of("food_forms"):
        return True
    singular = parse.tags[match.last] in ("NN", "NNP")
    bare = singular and leftmost(parse, head) == head and before not in DETERMINERS
    return bare or (singular and bool(around & words_of("food_context")))


def _colour(parse: Parse, match: Match, head: int) -> bool:
    """Return whether "orange" is a colour: an adjective, or a noun like "dressed in orange"."""
    if parse.tags[match.last].startswith("J") and head == match.last:
        return True
    above, relation = parse.heads[match.last], parse.relations[match.last]
    if relation in ("acomp", "amod"):
        return head == match.last
    bare = leftmost(parse, match.last) == match.last and head == match.last
    if relation == "pobj" and bare:
        return parse.words[above] in ("in", "of", "with")
    return bare and relation in ("attr", "oprd", "conj") and parse.tags[match.last] != "NNS"


@cache
def _senses() -> dict[str, "tuple[frozenset[str], frozenset[str]]"]:
    return {
        word: (frozenset(needed.split()), frozenset(barred.split()))
        for words, needed, barred in SENSES
        for word in words.split()
    }
