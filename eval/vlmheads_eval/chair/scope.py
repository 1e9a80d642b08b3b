"""Whether a parsed text says that what a noun phrase names is there: negation and hypotheticals."""

from collections.abc import Iterator

from vlmheads_eval.chair.lexicon import inert_negations, words_of
from vlmheads_eval.chair.parser import REACH, Parse
from vlmheads_eval.chair.phrases import MODIFIERS, definite

OBJECTS = frozenset(("dobj", "attr", "oprd", "dative", "obj"))
SUBJECTS = frozenset(("nsubj", "nsubjpass"))
NOT_WORDS = frozenset(("not", "n't", "never", "nt", "n\u2019t"))
INSIDE = ("DT", "JJ", "JJR", "JJS", "NN", "NNP", "NNS", "CD", "PRP$", "HYPH", "PDT", "VBN", "POS")
PHRASES_BEFORE = frozenset(
    """rather-than instead-of opposed-to lieu-of devoid-of free-of absence-of lack-of empty-of
    bereft-of void-of missing-any lacking-any none-of bare-of everything-but anything-but
    everything-except""".split()
)
PERCEIVING = frozenset("see find spot notice discern detect hold own get need make have".split())
CLAUSES = frozenset(("xcomp", "ccomp"))
IF = frozenset("if unless whether".split())


def absent(parse: Parse, head: int) -> bool:
    """Return whether a text says of a noun phrase that it is not there.

    Args:
        parse: the text.
        head: the head of the noun phrase.
    """
    return any(_absent(parse, member) for member in coordinated(parse, head))


def coordinated(parse: Parse, head: int) -> Iterator[int]:
    """Yield a noun phrase's head and those of the earlier ones whose negation it shares.

    "No cars, trucks or buses" negates all three; "no cat and a dog", or "but", ends it.
    """
    yield head
    for _ in range(REACH):
        if parse.relations[head] not in ("conj", "appos"):
            return
        first = parse.heads[head]
        between = set(parse.words[first + 1 : head])
        own = {parse.words[child] for child in parse.children[head] if child < head}
        if between & {"but", "yet", "although", "though", "while", "plus", "only", "just"}:
            return
        if own & {"a", "an", "the", "some", "one"} and not between & {"or", "nor"}:
            return
        head = first
        yield head


def _absent(parse: Parse, head: int) -> bool:
    return (
        _negated_before(parse, head)
        or _without(parse, head)
        or _negated_by_verb(parse, head)
        or _unseen(parse, head)
    )


def inert(parse: Parse, place: int) -> bool:
    """Return whether a negative word is part of a phrase that negates nothing."""
    for start in range(max(0, place - 3), place + 1):
        for parts in inert_negations().get(parse.words[start], ()):
            if (
                start + len(parts) > place
                and tuple(parse.words[start : start + len(parts)]) == parts
            ):
                return True
    return False


def _negated_before(parse: Parse, head: int) -> bool:
    """Return whether a negative word opens the noun phrase: "no dogs", "not a single dog"."""
    for child in parse.children[head]:
        word = parse.words[child]
        if child < head and (word == "lacking" or (word == "any" and _any_negated(parse, child))):
            return True
        if child < head and (word in ("no", "zero", "neither") or word in NOT_WORDS):
            if word in NOT_WORDS and parse.relations[head] == "ROOT" and _verbal(parse, head):
                continue
            if not inert(parse, child):
                return True
    place = head - 1
    start = parse.sentences[head][0]
    while place >= start and parse.tags[place] in INSIDE:
        word = parse.words[place]
        if word in words_of("bare_negatives"):
            break
        place -= 1
        if parse.tags[place + 1] in ("DT", "PRP$"):
            break
    if place < start:
        return False
    word = parse.words[place]
    if word in words_of("bare_negatives") or word in NOT_WORDS or word == "nor":
        return not inert(parse, place) and place + 1 <= head
    return f"{parse.words[place - 1]}-{word}" in PHRASES_BEFORE if place > start else False


def _any_negated(parse: Parse, place: int) -> bool:
    """Return whether an "any" follows a negative word, as it does outside of questions."""
    start = max(parse.sentences[place][0], place - REACH)
    before = set(parse.words[start:place])
    return bool(
        before & (NOT_WORDS | {"no", "without", "lacks", "lack", "never", "nor", "cannot", "far"})
    )


def _verbal(parse: Parse, head: int) -> bool:
    return parse.tags[head].startswith("V")


def _without(parse: Parse, head: int) -> bool:
    """Return whether a preposition negates it: "without a hat", "devoid of cars"."""
    if parse.relations[head] not in ("pobj", "pcomp"):
        return False
    preposition = parse.heads[head]
    word = parse.words[preposition]
    if word in ("without", "sans", "minus", "lacking", "unlike"):
        return not inert(parse, preposition)
    governor = parse.words[parse.heads[preposition]]
    if word == "of":
        negative = words_of("negative_nouns") | words_of("negative_adjectives")
        return (
            governor in negative | {"instead", "place", "lieu", "rid"}
            and not inert(parse, parse.heads[preposition])
            and (governor != "place" or parse.words[parse.heads[preposition] - 1] == "in")
        )
    if word == "than":
        return "rather" in parse.words[max(0, preposition - 1) : preposition]
    return False


def governors(parse: Parse, head: int) -> Iterator[tuple[int, str]]:
    """Yield the verbs that govern a noun phrase, with its part in the first one's clause.

    The part is "subject", "object" or "oblique". Complements follow their governing verb ("does not
    appear to have"); relative and adverbial clauses end the chain.
    """
    place, part, nested = head, "", False
    for _ in range(12):
        relation, above = parse.relations[place], parse.heads[place]
        if above == place:
            return
        verb = parse.tags[above].startswith("V") or parse.tags[above] == "MD"
        if not part:
            if relation in SUBJECTS:
                part = "subject"
            elif relation in OBJECTS:
                part = "oblique" if nested else "object"
            elif relation in ("pobj", "pcomp", "prep", "agent"):
                if verb:
                    part = "oblique"
                elif relation == "prep":
                    if parse.words[place] not in ("of", "with"):
                        return
                    nested = True
            else:
                return
            if part and verb:
                yield above, part
            elif part:
                return
        elif relation in CLAUSES or (relation == "conj" and verb):
            if verb or parse.tags[above].startswith("J"):
                yield above, part if relation != "conj" else part + "-conj"
            else:
                return
        else:
            return
        place = above


def _negation_of(parse: Parse, verb: int) -> bool:
    children = parse.children[verb]
    for child in children:
        word = parse.words[child]
        if word in NOT_WORDS and parse.relations[child] in ("neg", "advmod", "aux", "preconj"):
            return not inert(parse, child) and (child < verb or child == verb + 1)
        if word == "no" and parse.relations[child] in ("neg", "det") and child < verb:
            return not inert(parse, child)
    return False


def _negative_subject(parse: Parse, verb: int) -> bool:
    subject = parse.child(verb, "nsubj", "nsubjpass")
    if subject is None:
        return False
    word = parse.words[subject]
    if word == "one":
        return parse.words[max(0, subject - 1)] == "no"
    return word in words_of("negative_subjects") and not inert(parse, subject)


def _negated_by_verb(parse: Parse, head: int) -> bool:
    """Return whether its verb negates it: "does not have a dog", "is not holding an umbrella"."""
    indefinite = not definite(parse, head)
    first: int | None = None
    for verb, part in governors(parse, head):
        word = parse.words[verb]
        if first is None:
            first = verb
            if part == "object" and word in words_of("lacking") and not _negation_of(parse, verb):
                return True
        elif part.endswith("conj"):
            if not {"or", "nor"} & set(parse.words[verb:first]):
                return False
        elif word in words_of("failing") and part.startswith("object"):
            return not _negation_of(parse, verb)
        negative = _negation_of(parse, verb) or _negative_subject(parse, verb)
        if not negative or (part.startswith("subject") and not _expletive(parse, verb)):
            continue
        if parse.words[first] in words_of("existing") and part.startswith("object"):
            return indefinite or not _perceived(parse, first)
        if indefinite:
            return True
    return False


def _perceived(parse: Parse, verb: int) -> bool:
    """Return whether somebody in the picture does not see or hold a thing that is there."""
    subject = parse.child(verb, "nsubj")
    return (
        parse.words[verb] in PERCEIVING
        and subject is not None
        and parse.words[subject] not in ("i", "we", "you", "one", "viewer")
    )


def _expletive(parse: Parse, verb: int) -> bool:
    return parse.child(verb, "expl") is not None


def _unseen(parse: Parse, head: int) -> bool:
    """Return whether it is the subject of not being there: "the dog is absent"."""
    verbs = [parse.heads[head]] if parse.relations[head] in SUBJECTS else []
    verbs += [at for at in parse.children[head] if parse.relations[at] == "relcl"]
    return any(_says_unseen(parse, verb) for verb in verbs)


def _says_unseen(parse: Parse, verb: int) -> bool:
    children = parse.children[verb]
    said = [
        verb,
        *(
            at
            for at in children
            if parse.relations[at] in ("acomp", "advmod", "prep", "xcomp", "oprd", "attr")
        ),
    ]
    said += [at for place in said for at in parse.children[place] if parse.relations[at] == "conj"]
    spoken = [parse.words[at] for at in said]
    negative = _negation_of(parse, verb)
    if not negative and "nowhere" in spoken:
        return True
    if not negative and any(word in words_of("unseen") for word in spoken):
        return (
            parse.child(verb, "dobj") is None
            and not any(parse.words[at] == "under" for at in said)
            and "hidden" not in spoken
        )
    if negative:
        if any(word in words_of("visible") - {"in", "on", "part", "found"} for word in spoken):
            return True
        for at in said:
            if parse.words[at] in ("in", "on", "part", "within"):
                pictured = parse.child(at, "pobj")
                if pictured is not None and parse.words[pictured] in words_of("picture_words"):
                    return parse.words[verb] in ("is", "are", "was", "were", "be", "'s", "appear")
    return False


def hypothetical(parse: Parse, head: int) -> bool:
    """Return whether it is only possible, wished for or provided for: "might be a dog"."""
    member = list(coordinated(parse, head))[-1]
    indefinite = not definite(parse, member)
    return indefinite and (
        _in_modal_clause(parse, member) or _intended(parse, member) or _provided_for(parse, member)
    )


def _in_modal_clause(parse: Parse, head: int) -> bool:
    start = parse.sentences[head][0]
    if parse.words[start] in ("maybe", "perhaps", "possibly") and head - start < 6:
        return True
    first: int | None = None
    for verb, part in governors(parse, head):
        if first is None:
            first = verb
        elif part.endswith("conj"):
            return False
        modals = {
            parse.words[child]
            for child in parse.children[verb]
            if parse.relations[child] == "aux" and child < verb
        }
        seen = parse.words[verb] in words_of("visible") - {"in", "on"} | {"see", "seen"}
        if modals & words_of("modals") and not seen:
            return not part.startswith("subject") or bool(modals & {"might", "could", "would"})
        if "will" in modals and part == "object" and not seen:
            return True
        if parse.relations[verb] in ("advcl", "ccomp", "csubj", "acl") and any(
            parse.words[child] in IF
            for child in parse.children[verb]
            if parse.relations[child] == "mark"
        ):
            return True
        if verb != first and parse.words[verb] in words_of("clausal_intending"):
            return True
    return False


def _intended(parse: Parse, head: int) -> bool:
    """Return whether somebody only wants it or thinks of it: "waits for a bus"."""
    above = parse.heads[head]
    if parse.relations[head] == "dobj":
        return parse.words[above] in words_of("wanting_object")
    if parse.relations[head] != "pobj" or parse.words[above] not in ("for", "of", "about"):
        return False
    verb = parse.heads[above]
    return parse.words[verb] in words_of("intending") and parse.tags[verb].startswith("V")


def _provided_for(parse: Parse, head: int) -> bool:
    """Return whether something is only meant for it: "a hook for an umbrella"."""
    above = parse.heads[head]
    if parse.relations[head] == "pobj" and parse.words[above] in ("for", "to"):
        if (
            parse.words[above] == "for"
            and parse.words[head] in words_of("beneficiaries")
            and leftmost(parse, head) == head
        ):
            return True
        enough = "enough" in parse.words[max(0, above - 2) : above]
        return enough or parse.words[parse.heads[above]] in words_of("preparing")
    if parse.relations[head] != "dobj":
        return False
    to = any(parse.tags[child] == "TO" for child in parse.children[above])
    clause = parse.relations[above] in ("xcomp", "acl", "advcl", "relcl")
    return to and clause and parse.words[parse.heads[above]] in words_of("preparing")


def leftmost(parse: Parse, head: int) -> int:
    """Return the first token of a noun phrase's own modifiers and determiners."""
    kept = MODIFIERS | {"det", "poss", "predet", "neg", "preconj"}
    return min(
        (child for child in parse.children[head] if parse.relations[child] in kept), default=head
    )
