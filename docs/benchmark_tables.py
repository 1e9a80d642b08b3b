"""Write the tables of docs/benchmarks.md that come from the tests' reference values.

python docs/benchmark_tables.py            write them
python docs/benchmark_tables.py --check    say whether they are stale
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOLDENS = ROOT / "tests" / "eval" / "benchmarks" / "goldens"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
CODES = ("official", "lmms_eval", "vlmevalkit")
HALLUSIONBENCH = {
    "official_with_judgements": ("official, the judge's verdicts given", "judged"),
    "official_functions_strict_parser": ("official, first word in the judge's place", "strict"),
    "official_functions_word_parser": ("official, a word in the judge's place", "words"),
    "substring_yes_all_items (lmms-eval *_intern, InternVL)": (
        "lmms-eval `*_intern`, InternVL",
        "internvl",
    ),
    "substring_yes_image_items": ("the same, image questions", "internvl-images"),
    "vlmevalkit_image_items": ("VLMEvalKit", "vlmevalkit"),
}


def golden(name: str) -> Any:
    """Return a file of reference values."""
    return json.loads((GOLDENS / f"{name}.json").read_text("utf-8"))


def mme_scores() -> str:
    """Return MME's scores of the same 24 answers under three codes."""
    expected = golden("mme")["expected"]
    rows = []
    for task, row in expected.items():
        found = [row[code]["score"] if code == "official" else row[code] for code in CODES]
        rows.append([task, *(f"{value:.1f}" for value in found)])
    totals = [
        sum(row[code]["score"] if code == "official" else row[code] for row in expected.values())
        for code in CODES
    ]
    rows.append(["total of 800", *(f"{value:.1f}" for value in totals)])
    return markdown(("task", "official", "lmms-eval 0.7.3", "VLMEvalKit"), rows)


def mme_answers() -> str:
    """Return the answers that the three codes do not read alike."""
    rows = []
    for row in golden("mme")["parsers"]:
        read = [str(row[code]) for code in CODES]
        plain = {text.lower().replace("unknown", "other") for text in read}
        if len(plain) > 1:
            answer = json.dumps(row["answer"], ensure_ascii=False).replace("|", "\\|")
            rows.append([f"`{answer}`", *read])
    return markdown(("answer", "official", "lmms-eval", "VLMEvalKit"), rows)


def hallusionbench() -> str:
    """Return HallusionBench's figures of the same 19 answers in six ways."""
    expected = golden("hallusionbench")["expected"]
    rows = [
        [title, f"`{reading}`", *(f"{expected[name][key]:.1f}" for key in ("aAcc", "fAcc", "qAcc"))]
        for name, (title, reading) in HALLUSIONBENCH.items()
    ]
    return markdown(("way of scoring", "`--reading`", "aAcc", "fAcc", "qAcc"), rows)


def floors() -> str:
    """Return what constant answers get on the published HallusionBench.json."""
    rows = []
    for name, found in golden("hallusionbench")[
        "constant_answers_on_the_real_question_file"
    ].items():
        for title, row in (("1,129", found), ("951", found["image_items_substring"])):
            rows.append([name, title, *(f"{row[key]:.1f}" for key in ("aAcc", "fAcc", "qAcc"))])
    return markdown(("answer", "questions", "aAcc", "fAcc", "qAcc"), rows)


TABLES: Mapping[str, Any] = {
    "mme scores": mme_scores,
    "mme answers": mme_answers,
    "hallusionbench ways": hallusionbench,
    "hallusionbench floors": floors,
}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(text: str) -> str:
    """Return the document with every table between its marks made anew."""
    for mark, made in TABLES.items():
        head, start, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        if not start or not end:
            raise ValueError(f"no marks of the table {mark!r}")
        text = head + start + made() + end + tail
    return text


if __name__ == "__main__":
    text = DOCUMENT.read_text("utf-8")
    if "--check" in sys.argv:
        sys.exit("stale; run python docs/benchmark_tables.py" if filled(text) != text else 0)
    DOCUMENT.write_text(filled(text), "utf-8")
