"""Which objects a caption says are *not* there: a small, stated rule instead of a parser."""

OUTRIGHT = frozenset("no without neither nor lacks lacking absent".split())
VERBAL = frozenset(("not", "n't"))
# After "not": what still denies that the object is there ("does not show any cat"). "Is not sitting
# on a bench" denies the sitting and leaves the bench.
DENIES_WITH = frozenset("have has contain include show feature see depict".split())
ARTICLES = frozenset("a an any another one many other".split())
# "No doubt" and "not only" deny nothing.
IDIOMS = frozenset("only just merely doubt longer sure clear certain matter necessarily".split())
ENDS_A_CLAUSE = frozenset(
    """. , ; : ! ? but while although though however except and with on in at near behind beside
    under over""".split()
)
JOINING = frozenset(", or nor any a an other the".split())
REACH = 5  # Words between the negation and the object.


def denied(words: list[str], spans: list[tuple[int, int]]) -> list[bool]:
    """Say for every mention whether the caption denies it.

    A mention is denied when "no", "without", "neither", "nor", "lacks" or a "not" with an article
    ("there isn't a cat", "does not show any cars") stands at most five words before it with no
    clause end, preposition or other mention between; and when it is joined by a comma, "or" or
    "nor" to a denied one ("no cars, trucks or buses").

    Args:
        words: the caption's words in lower case.
        spans: start and end (exclusive) of every mention, in order.
    """
    found: list[bool] = []
    previous = 0
    for start, _ in spans:
        between = words[previous:start]
        joined = bool(found) and found[-1] and bool(between) and JOINING.issuperset(between)
        found.append(joined or _negated(words, max(previous, start - REACH - 1), start))
        previous = spans[len(found) - 1][1]
    return found


def _negated(words: list[str], floor: int, start: int) -> bool:
    for position in range(start - 1, floor - 1, -1):
        word = words[position]
        if word in ENDS_A_CLAUSE:
            return False
        if word in OUTRIGHT:
            return words[position + 1] not in IDIOMS
        if word in VERBAL:
            following = words[position + 1 : start]
            if following and following[0] in DENIES_WITH:
                following = following[1:]
            return bool(following) and following[0] in ARTICLES
    return False
