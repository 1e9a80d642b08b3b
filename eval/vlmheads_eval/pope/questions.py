"""Questions of POPE: read from files, or built from the objects of any images (Li et al., 2023)."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.records import nothing_in, read_records

STRATEGIES = ("random", "popular", "adversarial")
TEMPLATE = "Is there a {} in the image?"
Strategy = Literal["random", "popular", "adversarial"]


@dataclass(frozen=True)
class Question:
    """One question of POPE: its number, image file, text, and the label "yes" or "no"."""

    question_id: int
    image: str
    text: str
    label: str

    def to_dict(self) -> dict[str, Any]:
        """Return the question as a line of a POPE file."""
        return asdict(self)


def sample_images(
    images: Sequence[tuple[str, Sequence[str]]], number: int, seed: int, objects: int = 3
) -> list[tuple[str, Sequence[str]]]:
    """Return `number` images with enough objects, drawn as in the reference."""
    rich = [image for image in images if len(image[1]) >= objects]
    if len(rich) < number:
        raise VlmHeadsError(
            f"{len(rich)} images with at least {objects} objects", f"{number} or more"
        )
    return random.Random(seed).sample(rich, number)


def build_questions(
    images: Sequence[tuple[str, Sequence[str]]],
    strategy: Strategy,
    *,
    draws: random.Random,
    objects: int = 3,
    reference_wording: bool = False,
) -> list[Question]:
    """Return POPE's questions: per image, present objects, each followed by an absent one.

    Args:
        images: file name and objects of each image, in order.
        strategy: the absent objects are drawn at "random", are the most frequent ones ("popular"),
            or those that co-occur most often with the present one ("adversarial").
        draws: the random generator; one generator over several calls reproduces the reference.
        objects: questions with each answer per image.
        reference_wording: keep the reference's error of writing "imange" after "an".
    """
    if strategy not in STRATEGIES:
        raise VlmHeadsError(f"strategy {strategy!r}", " or ".join(STRATEGIES))
    frequency = Counter(name for _, names in images for name in names)
    together: dict[str, Counter[str]] = {name: Counter() for name in frequency}
    for _, names in images:
        for name in names:
            together[name].update(other for other in names if other != name)
    popular = [name for name, _ in frequency.most_common()]
    word = _reference_wording if reference_wording else _wording
    questions: list[Question] = []
    for image, names in images:
        taken: set[str] = set()
        for present in names[:objects]:
            taken.add(present)
            ranked: list[str] = []
            if strategy == "popular":
                ranked = popular
            elif strategy == "adversarial":
                ranked = [name for name, _ in together[present].most_common()]
            absent = _absent(ranked, taken.union(names), list(frequency), draws, image)
            taken.add(absent)
            for name, label in ((present, "yes"), (absent, "no")):
                questions.append(Question(len(questions) + 1, image, word(name), label))
    return questions


def _absent(
    ranked: Sequence[str], barred: set[str], all_names: list[str], draws: random.Random, image: str
) -> str:
    for name in ranked:
        if name not in barred:
            return name
    if barred.issuperset(all_names):
        raise VlmHeadsError(
            f"{image}: every object of the sample is present or was already asked for",
            "an absent object to ask for",
            "use more images or fewer questions per image",
        )
    while (name := draws.choice(all_names)) in barred:
        pass
    return name


def _wording(name: str) -> str:
    template = TEMPLATE.replace("a {}", "an {}") if name[0].lower() in "aeiou" else TEMPLATE
    return template.format(name)


def _reference_wording(name: str) -> str:
    template = TEMPLATE.replace("a", "an") if name[0] in "aeiou" else TEMPLATE
    return template.format(name)


@dataclass(frozen=True)
class QuestionFile:
    """A file of questions: the split it is named after, its questions, its SHA-256."""

    path: Path
    split: str
    questions: tuple[Question, ...]
    sha256: str


class _QuestionRecord(msgspec.Struct):
    """A line of a question file."""

    question_id: int | str
    image: str | int
    text: str
    label: str


def read_questions(path: Path) -> QuestionFile:
    """Read POPE, RePOPE, A-OKVQA or GQA questions, JSON Lines or a JSON list.

    The split is the strategy in the file name, or the name itself.

    Raises:
        VlmHeadsError: no question, a question twice, or a line of another form.
    """
    questions: dict[int, Question] = {}
    record: _QuestionRecord
    for place, record in read_records(path, _QuestionRecord):
        number, label = str(record.question_id), record.label.lower()
        if not (number.isascii() and number.isdecimal() and len(number) < 19):
            raise VlmHeadsError(f"{place}: question_id {number[:40]!r}", "a whole number")
        if label not in ("yes", "no"):
            raise VlmHeadsError(f"{place}: label {label[:40]!r}", "yes or no")
        if int(number) in questions:
            raise VlmHeadsError(f"{place}: question {number} again", "every question once")
        questions[int(number)] = Question(int(number), str(record.image), record.text, label)
    if not questions:
        raise nothing_in(path, "question")
    split = next((name for name in STRATEGIES if name in path.stem.lower()), path.stem)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return QuestionFile(path, split, tuple(questions.values()), digest)
