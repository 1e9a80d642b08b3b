"""How yes or no is read from an answer: the benchmarks' own ways, and two of ours."""

import re
from collections.abc import Callable, Mapping

from vlmheads_eval.pope.parsers import PARSERS, Reply

Read = Callable[[str], Reply | None]


def mme(answer: str) -> Reply | None:
    """Read as MME's script: "yes", else "no", among the first four characters of lower case.

    Nothing is stripped, so " Yes" works and "**Yes**" does not; "Not sure" and "Know" say no.
    """
    start = answer.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def mme_lmms(answer: str) -> Reply | None:
    """Read as lmms-eval's task for MME: stripped, without periods, "y" and "n" allowed."""
    text = answer.lower().strip().replace(".", "")
    return "yes" if text == "y" else "no" if text == "n" else mme(text)


def words(answer: str) -> Reply | None:
    """Read as VLMEvalKit: the whole word yes or no anywhere, and not both."""
    return PARSERS["vlmevalkit"].read(answer, "yes")


def letters(answer: str) -> Reply | None:
    """Read as DASH-B: the letters "yes" anywhere, else the letters "no"."""
    return PARSERS["repope"].read(answer, "yes")


def yes_or_else(answer: str) -> Reply | None:
    """Read as InternVL and lmms-eval for HallusionBench: "yes" anywhere; anything else says no."""
    return "yes" if "yes" in answer.lower() else "no"


_EITHER = re.compile(r"\W*(?:yes\W*(?:/|or|and)\W*no|no\W*(?:/|or|and)\W*yes)\b")


def first_word(answer: str) -> Reply | None:
    """Read the first word, which must be yes or no, whatever its case and punctuation.

    An answer that offers both, such as "Yes/No" or "yes and no", says neither.
    """
    text = answer.lower()
    found = re.search(r"\w+", text)
    if not found or _EITHER.match(text):
        return None
    return "yes" if found[0] == "yes" else "no" if found[0] == "no" else None


_CLAUSE = re.compile(r"[.;!?\n]|,? but ")
_HEDGE = re.compile(
    r"\b(?:not (?:sure|certain|clear|possible|able)|unclear|uncertain|unknown|unable|impossible"
    r"|(?:can ?not|can't|cannot|could ?not|couldn't|hard to|difficult to) "
    r"(?:tell|say|determine|know|judge|answer)|do(?:es)? ?n[o']t know|don't know|maybe|perhaps"
    r"|might|may be|sorry)\b"
)
_NEGATED = re.compile(
    r"\b(?:no|not|none|nobody|nothing|neither|never|without|cannot|lacks?)\b|n't\b"
)
_STATED = re.compile(
    r"^(?:well|sure|indeed|in (?:this|the) (?:image|picture|photo))?\W*"
    r"(?:there (?:is|are|appears?|seems?)|it (?:is|has|appears?|seems?|shows?)|they (?:are|have)"
    r"|i (?:can )?see|the |this |these |those |an? |one |two |three |four |five |some )"
)


def sentence(answer: str) -> Reply | None:
    """Read a whole sentence: its first word if that is yes or no, otherwise what it states.

    Only the first clause counts. One that hedges says neither; one with a negation says no; one
    that states something ("There is a dog on the left") says yes; anything else says neither.
    """
    known = first_word(answer)
    if known is not None:
        return known
    clauses = [part.strip() for part in _CLAUSE.split(answer.lower().replace("\u2019", "'"))]
    clause = next(filter(None, clauses), "")
    if not clause or _EITHER.match(clause) or _HEDGE.search(clause):
        return None
    if _NEGATED.search(clause):
        return "no"
    return "yes" if _STATED.match(clause) else None


def exactly(answer: str) -> Reply | None:
    """Read as AMBER's script: exactly "Yes" or "No"."""
    return "yes" if answer == "Yes" else "no" if answer == "No" else None


READINGS: Mapping[str, Read] = {
    "mme": mme,
    "mme-lmms": mme_lmms,
    "words": words,
    "letters": letters,
    "yes-or-else": yes_or_else,
    "first-word": first_word,
    "sentence": sentence,
    "exactly": exactly,
}
