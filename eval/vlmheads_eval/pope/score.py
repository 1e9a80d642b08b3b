"""POPE's accuracy, precision, recall, F1 and yes ratio, with a choice of parsers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.pope.parsers import PARSERS, Parser
from vlmheads_eval.pope.questions import Question, QuestionFile
from vlmheads_eval.records import nothing_in, read_records

ANSWER_FIELDS = ("answer", "text", "response", "caption")


# (split, question number), None where a record does not say -> the answers.
AnswerTable = Mapping[tuple[str | None, int | None], Sequence[str]]


class Outcome(NamedTuple):
    """What one answer adds to the sums; `unparsed_yes`: neither yes nor no, and yes is correct."""

    true_yes: int = 0
    false_yes: int = 0
    true_no: int = 0
    false_no: int = 0
    unparsed_yes: int = 0
    unparsed_no: int = 0


def read_answers(path: Path) -> dict[tuple[str | None, int | None], list[str]]:
    """Read answers by split and question number, None where a record does not say.

    Raises:
        VlmHeadsError: no answer, a question that is answered twice, or a line of another form.
    """
    answers: dict[tuple[str | None, int | None], list[str]] = {}
    failed = 0
    record: _AnswerRecord
    for place, record in read_records(path, _AnswerRecord):
        if record.error:
            failed += 1
            continue
        given = (getattr(record, name) for name in ANSWER_FIELDS)
        text = next((one for one in given if one is not None), None)
        if text is None:
            raise VlmHeadsError(f"{place}: no answer", f"a string as {' or '.join(ANSWER_FIELDS)}")
        same = answers.setdefault((record.split, record.question_id), [])
        if same and record.question_id is not None:
            raise VlmHeadsError(
                f"{place}: question {record.question_id} again", "one answer per question"
            )
        same.append(text)
    if not answers:
        raise nothing_in(path, "answer", failed)
    return answers


class _AnswerRecord(msgspec.Struct):
    """A line of answers; one with an error is an image that failed in `predict`."""

    question_id: int | None = None
    split: str | None = None
    answer: str | None = None
    text: str | None = None
    response: str | None = None
    caption: str | None = None
    error: Any = None


def match_answers(file: QuestionFile, answers: AnswerTable) -> list[str]:
    """Return one answer per question: by split and number, by number, or by order if unnumbered."""
    if set(answers) == {(None, None)}:
        ordered = answers[None, None]
        if len(ordered) != len(file.questions):
            raise VlmHeadsError(
                f"{len(ordered)} answers without question_id",
                f"{len(file.questions)}, one per line of {file.path}",
            )
        return list(ordered)
    found = []
    for question in file.questions:
        number = question.question_id
        same = answers.get((file.split, number), answers.get((None, number)))
        if not same:
            raise VlmHeadsError(
                f"no answer to question {number} of {file.path} (split {file.split})",
                "one answer per question",
                "resume the run, or pass the question file that was answered",
            )
        found.append(same[0])
    return found


def outcomes(
    questions: Sequence[Question], answers: Sequence[str], parser: Parser
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the outcome of each answer [questions, columns of `Outcome`]."""
    rows = np.zeros((len(questions), len(Outcome._fields)), dtype=np.int64)
    for row, question, answer in zip(rows, questions, answers, strict=True):
        label = "yes" if question.label == "yes" else "no"
        reply = parser.read(answer, label)  # type: ignore[arg-type]
        if reply is None:
            row[Outcome._fields.index(f"unparsed_{label}")] = 1
        else:
            row[Outcome._fields.index(f"{'true' if reply == label else 'false'}_{reply}")] = 1
    return rows


def figures(sums: np.ndarray[Any, Any], parser: Parser) -> dict[str, np.ndarray[Any, Any]]:
    """Return the measures of sums [..., columns of `Outcome`] as [...]; NaN where undefined.

    "yes" is the positive class. The parser decides how unparsed answers count.
    """
    outcome = {name: sums[..., column] for column, name in enumerate(Outcome._fields)}
    asked = sums.sum(axis=-1)
    unparsed = outcome["unparsed_yes"] + outcome["unparsed_no"]
    counted = asked - unparsed if parser.unparsed == "dropped" else asked
    missed = outcome["false_no"] + (
        outcome["unparsed_yes"] if parser.unparsed == "wrong" else np.zeros_like(asked)
    )
    hits, said_yes = outcome["true_yes"], outcome["true_yes"] + outcome["false_yes"]
    labelled_yes = hits + outcome["false_no"] + outcome["unparsed_yes"]
    precision, recall = _ratio(hits, said_yes), _ratio(hits, hits + missed)
    return {
        "accuracy": _ratio(hits + outcome["true_no"], counted),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": _ratio(labelled_yes if parser.true_yes_ratio else said_yes, counted),
        "unparsed": _ratio(unparsed, asked),
    }


def _ratio(above: Any, below: Any) -> np.ndarray[Any, Any]:
    ratio = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=ratio, where=np.asarray(below) > 0)
    return ratio


def score_pope(
    files: Iterable[QuestionFile],
    answers: AnswerTable,
    parser: str = "strict",
) -> dict[str, Any]:
    """Return POPE's measures per split and their mean, with the SHA-256 of every question file.

    Rates are fractions, None where undefined. Raises VlmHeadsError for an unknown parser, a
    question without an answer, or two files of one split.
    """
    if parser not in PARSERS:
        raise VlmHeadsError(f"parser {parser!r}", " or ".join(PARSERS))
    chosen = PARSERS[parser]
    splits: dict[str, Any] = {}
    for file in files:
        if file.split in splits:
            raise VlmHeadsError(f"two question files of the split {file.split}", "one per split")
        rows = outcomes(file.questions, match_answers(file, answers), chosen)
        sums = rows.sum(axis=0)
        splits[file.split] = {
            "questions": len(file.questions),
            "file": str(file.path),
            "sha256": file.sha256,
            **{name: _number(value) for name, value in figures(sums, chosen).items()},
            "counts": {name: int(sums[at]) for at, name in enumerate(Outcome._fields)},
        }
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")
    return {
        "parser": parser,
        "splits": splits,
        "mean": {name: _mean([split[name] for split in splits.values()]) for name in names},
    }


def _number(value: np.ndarray[Any, Any]) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) and known else None
