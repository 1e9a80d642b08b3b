"""Parsers that read yes or no from an answer: six official ones that disagree, and a strict one."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Reply = Literal["yes", "no"]


@dataclass(frozen=True)
class Parser:
    """One parser of answers, and how it counts an answer that says neither.

    Args:
        name: as on the command line.
        read: from the answer and the question's label to "yes", "no" or None for neither. Only
            "vcd" uses the label.
        unparsed: "wrong" counts it as a wrong answer; "dropped" excludes it from every figure;
            "wrong but not missed" excludes it from recall only.
        true_yes_ratio: whether the reference reports the labels' share of "yes" as the yes ratio.
    """

    name: str
    read: Callable[[str, Reply], Reply | None]
    unparsed: Literal["wrong", "dropped", "wrong but not missed"] = "wrong"
    true_yes_ratio: bool = False


def _pope(answer: str, label: Reply) -> Reply:
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "yes" if {"No", "not", "no"}.isdisjoint(words) else "no"


def _opera(answer: str, label: Reply) -> Reply:
    words = answer.replace(".", "").replace(",", "").split(" ")
    negated = not {"No", "not", "no", "NO"}.isdisjoint(words)
    return "no" if negated or any(word.endswith("n't") for word in words) else "yes"


def _vcd(answer: str, label: Reply) -> Reply:
    # The script searches only for the label, so an answer without it is always wrong.
    if label in answer.lower():
        return label
    return "no" if label == "yes" else "yes"


def _lmms(answer: str, label: Reply) -> Reply | None:
    return _exactly(answer.lower().strip())


def _vlmevalkit(answer: str, label: Reply) -> Reply | None:
    words = _without_punctuation(answer.lower()).split()
    return _one_of("yes" in words, "no" in words)


def _repope(answer: str, label: Reply) -> Reply | None:
    text = answer.lower()
    return "yes" if "yes" in text else "no" if "no" in text else None


# Words by which an answer goes on to the other reply: "Yes or no", "Yes and also no".
_GOING_ON = frozenset("or and but also maybe perhaps then".split())


def _strict(answer: str, label: Reply) -> Reply | None:
    """Return the first word; None where the other reply follows it at once, as in "Yes/No"."""
    words = re.findall(r"\w+", answer.lower())
    reply = _exactly(words[0]) if words else None
    following = next((word for word in words[1:] if word not in _GOING_ON), "")
    return None if reply and _exactly(following) not in (None, reply) else reply


def _exactly(text: str) -> Reply | None:
    return "yes" if text == "yes" else "no" if text == "no" else None


def _one_of(yes: bool, no: bool) -> Reply | None:
    if yes == no:
        return None
    return "yes" if yes else "no"


def _without_punctuation(text: str) -> str:
    """Remove punctuation as VLMEvalKit does: it becomes a space unless it has one next to it."""
    grouped = re.search(r"\d,\d", text) is not None
    cleaned = text
    for sign in ';/[]"{}()=+\\_-><@`,?!':
        beside_space = f"{sign} " in text or f" {sign}" in text
        cleaned = cleaned.replace(sign, "" if beside_space or grouped else " ")
    # The reference passes a flag as the count of `sub`, so only 32 periods are removed.
    return re.sub(r"\.(?!\d)", "", cleaned, count=32)


PARSERS: Mapping[str, Parser] = {
    parser.name: parser
    for parser in (
        Parser("pope", _pope),
        Parser("opera", _opera),
        Parser("vcd", _vcd),
        Parser("lmms", _lmms, "wrong but not missed", true_yes_ratio=True),
        Parser("vlmevalkit", _vlmevalkit),
        Parser("repope", _repope, "dropped"),
        Parser("strict", _strict),
    )
}
