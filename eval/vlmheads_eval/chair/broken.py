"""Broken text: captions with an article that no noun phrase follows."""

import re

# What cannot begin a noun phrase: marks, forms of "be" and "have", prepositions, conjunctions,
# "there" and personal pronouns. "Can", "like" and "IT" are left out: they can be nouns or
# adjectives.
_MARKS = r"\s*[,.;:!?](?=\s|$)"
_WORDS = (
    "is are was were has have had of in on at with to for from by into onto and or but there he "
    "she they There He She They"
)
# "A" in capitals may be a letter, as in "buttons A and B", unless it begins a sentence.
_ARTICLE = r"(?:\b(?:a|an|the|An|The)|(?:\A|(?<=[.!?]\s)|(?<=\n))A)"
_BROKEN = re.compile(rf"{_ARTICLE}(?:{_MARKS}|\s+(?:{'|'.join(_WORDS.split())})(?=[\s,.;:!?]))")


def broken_text(text: str) -> bool:
    """Return whether an article stands where no noun can follow: "on the, waiting", "a of bread".

    An article breaks a text if what follows is a mark (, . ; : ! ?), a form of "be" or "have", a
    preposition, a conjunction, "there" or a personal pronoun. A caption that the token limit cut
    after an article, or within the word after it, is not broken by that.
    """
    return _BROKEN.search(text) is not None
