"""Whether a noun phrase is a likeness, a comparison or only a written word."""

from vlmheads_eval.chair.lexicon import Match, words_of
from vlmheads_eval.chair.parser import REACH, Parse
from vlmheads_eval.chair.phrases import ANIMATE, VEHICLES, definite
from vlmheads_eval.chair.scope import OBJECTS, SUBJECTS, leftmost

LOCATIVES = frozenset(
    """next near beside behind above by under over below beneath across around at between along
    against outside inside opposite to toward towards""".split()
)
STRICT_CARRIERS = frozenset("flag flags coin coins stamp logo tattoo poster emblem badge".split())
ON = frozenset(("on", "onto", "in", "across"))


def compared(parse: Parse, head: int) -> bool:
    """Return whether a noun phrase only says what something is like: "looks like a bear"."""
    above = parse.heads[head]
    if parse.relations[head] == "dobj":
        return parse.words[above] in words_of("resembling") - {"suggest", "suggests"}
    if parse.relations[head] not in ("pobj", "pcomp", "nsubj", "conj", "attr"):
        return False
    start = leftmost(parse, head)
    before = parse.words[max(0, start - 5) : start]
    last = before[-1] if before else ""
    if parse.relations[head] != "pobj" and last not in ("like", "as", "than"):
        return False
    if last == "like" or (parse.relations[head] == "pobj" and parse.words[above] == "like"):
        return not _example(parse, above if parse.words[above] == "like" else start - 1)
    if last == "as":
        if {"such", "well", "many", "soon", "long", "far", "known"} & set(before[-2:]):
            return False
        if definite(parse, head):
            return False
        return "as" in before[:-1] or _governed_by_similar(parse, above)
    if last == "than":
        known = definite(parse, head)
        return not known and not {"more", "less", "fewer", "rather", "other"} & set(before[-2:])
    return _governed_by_similar(parse, above) or (
        parse.words[above] == "of"
        and parse.words[parse.heads[above]] in words_of("likeness_of")
        and not definite(parse, head)
    )


def _example(parse: Parse, like: int) -> bool:
    """Return whether "like" gives examples: "animals like cows"."""
    before = like - 1
    if before >= 0 and parse.words[before] == ",":
        before -= 1
    return before >= 0 and parse.tags[before] == "NNS"


def _governed_by_similar(parse: Parse, preposition: int) -> bool:
    if parse.words[preposition] not in ("to", "of", "like", "as"):
        return False
    return parse.words[parse.heads[preposition]] in words_of("similar")


def depicted(parse: Parse, match: Match, head: int) -> bool:
    """Return whether a picture, statue or print shows it: "a painting of a horse"."""
    return (
        _shown_by_likeness(parse, head)
        or _on_carrier(parse, match, head)
        or _made(parse, match, head)
    )


def _shown_by_likeness(parse: Parse, head: int) -> bool:
    place = head
    if parse.relations[head] == "conj" and not definite(parse, head):
        first = parse.heads[head]
        joined = parse.words[first] in words_of("likenesses") and leftmost(parse, head) == head
        if joined and any(parse.words[at] == "of" for at in parse.children[first]):
            return True  # "Statues of lions and horses", whatever "horses" hangs on.
    for _ in range(10):
        relation, above = parse.relations[place], parse.heads[place]
        if above == place:
            return False
        word = parse.words[above]
        if relation == "prep" and word in words_of("showing"):
            return _shows_likeness(parse, above)
        if relation == "prep" and parse.words[place] in ("of", "with", "showing", "from", "like"):
            if _is_likeness(parse, above) and parse.words[place] in ("of", "showing"):
                return True
            if parse.words[place] == "with" and word in STRICT_CARRIERS:
                return True
        elif relation == "prep" and parse.words[place] in LOCATIVES:
            return False
        elif relation in OBJECTS and word in words_of("showing"):
            return _shows_likeness(parse, above)
        elif relation not in ("pobj", "prep", "conj", "dobj", "acl", "appos", "relcl", "nsubj"):
            return False
        elif relation == "nsubj" and parse.relations[above] != "relcl":
            if parse.words[above] in words_of("likenesses") and parse.tags[above][0] == "N":
                return False
            if parse.relations[above] not in ("acl", "pcomp", "ccomp"):
                return False
        place = above
    return False


def _is_likeness(parse: Parse, noun: int) -> bool:
    """Return whether a noun is a likeness in the scene, and not the caption's own picture."""
    word = parse.words[noun]
    if not parse.tags[noun].startswith("N"):
        return False
    if word in words_of("frames"):
        return not _own_picture(parse, noun)
    return word in words_of("likenesses") and not _is_the_image(parse, noun)


def _own_picture(parse: Parse, noun: int) -> bool:
    """Return whether "a photo of ..." is about the picture that the caption describes."""
    relation, above = parse.relations[noun], parse.heads[noun]
    start = parse.sentences[noun][0]
    opens = leftmost(parse, noun) <= start + 1
    if relation == "ROOT":
        return True
    if relation == "attr":
        return _is_the_image(parse, noun)
    if relation == "dobj":
        subject = parse.child(above, "nsubj")
        if parse.words[above] in ("take", "takes", "taking", "took", "taken", "snaps", "snapping"):
            return True  # What is photographed is there.
        return subject is not None and parse.words[subject] in words_of("frames") | {"this"}
    if relation in SUBJECTS and opens:
        return parse.words[above] not in words_of("hanging") and not _on_wall(parse, above)
    if relation == "pobj":
        return noun - start <= 3 and parse.words[above] in ("in", "from", "on")
    return opens and relation not in ("dobj", "pobj")


def _is_the_image(parse: Parse, noun: int) -> bool:
    """Return whether a noun says what the picture is: "the image is a drawing of a cat"."""
    if parse.relations[noun] != "attr":
        return False
    subject = parse.child(parse.heads[noun], "nsubj")
    return subject is not None and parse.words[subject] in (
        *("this", "it", "here", "that"),
        *words_of("frames"),
    )


def _on_wall(parse: Parse, verb: int) -> bool:
    places = ("on", "above", "over", "in")
    return parse.words[verb] in ("is", "are") and any(
        parse.words[child] in places and parse.relations[child] == "prep"
        for child in parse.children[verb]
    )


def _shows_likeness(parse: Parse, verb: int) -> bool:
    """Return whether what shows an object is a likeness: "the mural depicts a train"."""
    subject = parse.child(verb, "nsubj")
    if subject is None and parse.relations[verb] in ("acl", "relcl"):
        subject = parse.heads[verb]
    if subject is None or not parse.tags[subject].startswith("N"):
        return False
    word = parse.words[subject]
    if word in words_of("frames"):
        return not _own_picture(parse, subject)
    return word in words_of("likenesses") | words_of("carriers")


def _on_carrier(parse: Parse, match: Match, head: int) -> bool:
    """Return whether it is printed on something: "a mug with a dog on it"."""
    after = match.last + 1
    while after < len(parse.tags) and parse.tags[after] in ("CC", "DT", "JJ", "NN", "NNS", ","):
        after += 1
    if after < len(parse.words) and parse.words[after] in words_of("making"):
        after += 1
    following = parse.words[after : after + 2]
    on_it = len(following) > 1 and following[0] in ON - {"in"} and following[1] in ("it", "them")
    before = parse.words[max(parse.sentences[head][0], match.first - 9) : match.first]
    carried = any(word in words_of("carriers") for word in before)
    return (
        on_it and carried and bool({"with", "has", "have", "had", "and", "featuring"} & set(before))
    )


def _made(parse: Parse, match: Match, head: int) -> bool:
    """Return whether somebody draws or carves it, or it is printed on something."""
    node, relation, above = match.entry.node, parse.relations[head], parse.heads[head]
    word = parse.words[above]
    alive = node in ANIMATE or node in VEHICLES
    making = words_of("making")
    if relation == "dobj" and word in making and alive and not definite(parse, head):
        if word.startswith(("draw", "drew")) and node == "person":
            return False  # A show draws visitors.
        return not word.startswith(("paint", "print", "sew", "fold")) or node in ANIMATE
    if relation == "pobj" and word in ("with", "by") and alive:
        made = parse.heads[above]
        if parse.words[made] in words_of("making") and parse.tags[made] == "VBN":
            return word == "with"
    verbs = [at for at in parse.children[head] if parse.relations[at] in ("acl", "relcl")]
    if relation in SUBJECTS:
        verbs.append(above)
    for verb in verbs:
        below = {parse.words[at] for at in parse.children[verb]}
        if parse.tags[verb] == "VBN" and parse.words[verb] in making and below & (ON | {"onto"}):
            return True
        if alive and parse.words[verb] == "made" and below & {"of", "from", "out"}:
            return True
    return False


def written(parse: Parse, match: Match, head: int) -> bool:
    """Return whether it is only written somewhere: 'a sign that says "bus"'."""
    first, stop = parse.sentences[match.last]
    start, end = max(first, match.first - REACH), min(stop, match.last + REACH)
    # A quotation with marks inside may be cut into sentences.
    around = range(max(0, start - 12), min(len(parse.words), end + 12))
    cues = words_of("text_verbs") | words_of("text_nouns")
    if parse.quoted[match.last]:
        cues = cues | words_of("making")
        return any(parse.words[at] in cues for at in around)
    form = parse.forms[match.last]
    above = parse.words[parse.heads[head]]
    if form.isupper() and len(form) > 2 and match.first == match.last:
        lower = sum(parse.forms[at].islower() for at in range(start, end))
        if lower > (end - start) / 2 and any(parse.words[at] in cues for at in range(start, end)):
            return True
    bare = leftmost(parse, head) == head
    if bare and above in words_of("text_verbs") - {"name", "names", "display", "displays"}:
        return any(parse.words[at] in words_of("text_bearers") for at in range(start, match.first))
    return _in_name(parse, match)


ACRONYMS = frozenset("tv suv bmx bmw vw hdtv blt pc".split())


def _in_name(parse: Parse, match: Match) -> bool:
    """Return whether a capitalised word is part of a name: "the Lamb of God Church"."""
    first, stop = parse.sentences[match.last]
    start, end = max(first, match.first - REACH), min(stop, match.last + REACH)
    form = parse.forms[match.last]
    if match.last == first or not form[:1].isupper() or match.last > match.first:
        return False
    if parse.words[match.last] in ACRONYMS or parse.tags[match.last] not in ("NNP", "NNPS"):
        return False
    words = [parse.forms[at] for at in range(start, end) if parse.forms[at].isalpha()]
    capitals = sum(word[:1].isupper() for word in words)
    if capitals > len(words) / 2:
        return False  # A heading, or a caption with capitals throughout.
    return _capital(parse, match.first - 1, -1, start, end) or _capital(
        parse, match.last + 1, 1, start, end
    )


def _capital(parse: Parse, place: int, step: int, start: int, end: int) -> bool:
    while start < place < end and parse.words[place] in ("of", "and", "the", "in", "&"):
        place += step
    return start < place < end and parse.forms[place][:1].isupper()
