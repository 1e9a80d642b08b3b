"""HumbleBench: five options of which the last is "None of the above" (Tong et al., 2025)."""

import re
from collections.abc import Sequence
from dataclasses import replace

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.files import read_table, table_files
from vlmheads_eval.benchmarks.record import (
    Answers,
    Benchmark,
    Figure,
    Item,
    Questions,
    Source,
    Tally,
    share,
)

LETTERS = "ABCDE"
NONE = "E"
TYPES = ("Object", "Relation", "Attribute")
SUFFIX = (
    "\nPlease respond with only the letter of the correct choice (A, B, C, D, or E). "
    "Do not include the option text or any other explanation."
)


def load(source: Source) -> Questions:
    """Read maifoundations/HumbleBench's Parquet files, or a table with its columns."""
    files = table_files(source.path)
    items: dict[str, Item] = {}
    for row in read_table(source, files):
        key, label = row.text("question_id"), row.text("label").strip()
        if label not in tuple(LETTERS):
            raise VlmHeadsError(f"{row.place}: label {label[:40]!r}", "A, B, C, D or E")
        if key in items:
            raise VlmHeadsError(f"{row.place}: question {key} again", "each once")
        picture = row.values.get("image")
        cluster = picture.identity if picture else key
        image = picture.file if picture else None
        question = row.text("question")
        items[key] = Item(key, question + SUFFIX, label, cluster, row.text("type"), image)
    if not items:
        raise VlmHeadsError(f"{source.path} holds no question", "HumbleBench's table")
    return Questions(tuple(items.values()), files)


def load_none_only(source: Source) -> Questions:
    """Read HumbleBench with every right option taken out, so that E is always right."""
    questions = load(source)
    return Questions(tuple(none_only(item) for item in questions.items), questions.files)


def none_only(item: Item) -> Item:
    """Return a question without its right option, unless that is E, and with E as the label.

    As in the official code, every line but the first that begins with the letter is deleted.
    """
    text = item.question.removesuffix(SUFFIX)
    if item.label != NONE:
        first, *lines = text.strip().split("\n")
        kept = [line for line in lines if not line.strip().startswith(f"{item.label}.")]
        text = "\n".join([first, *kept])
    suffix = SUFFIX if item.question.endswith(SUFFIX) else ""
    return replace(item, question=text + suffix, label=NONE)


def chosen(answer: str) -> str | None:
    """Return the option an answer names: the only one of the words a to e in it, else None."""
    found = {word for word in re.findall(r"\w+", answer.lower()) if word.upper() in set(LETTERS)}
    return found.pop().upper() if len(found) == 1 else None


def tally(items: Sequence[Item], answers: Answers, reading: str) -> Tally:
    """Count right answers by type, letters, and what becomes of questions whose answer is E."""
    result = Tally()
    for item in items:
        text = answers[item.key].text
        letter = chosen(text)
        right = letter == item.label
        result.correct[item.key] = right
        result.add(
            item.cluster,
            asked=1,
            right=int(right),
            unparsed=int(letter is None),
            **{item.part: 1, f"{item.part} right": int(right), f"chose {letter}": 1},
        )
        if item.label == NONE:
            literal = int(text == NONE)
            result.add(item.cluster, **{"none": 1, "none right": int(right), "literal": literal})
    return result


def figures(items: Sequence[Item], reading: str) -> list[Figure]:
    """Return accuracy, by type, on questions whose answer is E, and the shares of the letters."""
    types = sorted({item.part for item in items}, key=lambda name: (name not in TYPES, name))
    return [
        Figure("accuracy", share("right", "asked"), "asked"),
        *(Figure(f"{name} accuracy", share(f"{name} right", name), name) for name in types),
        Figure("E accuracy", share("none right", "none"), "none"),
        # The official figure compares the whole answer with "E", so "E." and "e" do not count.
        Figure("E accuracy, official", share("literal", "none"), "none"),
        *(
            Figure(f"chose {letter}", share(f"chose {letter}", "asked"), "asked")
            for letter in LETTERS
        ),
    ]


HUMBLEBENCH = Benchmark(
    name="humblebench",
    title="HumbleBench",
    unit="image",
    constants={f"always {letter}": letter for letter in LETTERS},
    readings={
        "official": "the only one of the words a to e in the answer; several or none is wrong"
    },
    load=load,
    tally=tally,
    figures=figures,
    tested=("accuracy",),
)
HUMBLEBENCH_E = replace(
    HUMBLEBENCH,
    name="humblebench-e",
    title="HumbleBench-E (right option taken out)",
    load=load_none_only,
)
