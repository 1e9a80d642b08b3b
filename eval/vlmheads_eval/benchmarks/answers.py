"""Answers to a benchmark's questions: read from a run or a file, matched by key, never by order."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.record import Answer, Answers, Benchmark, Item
from vlmheads_eval.records import predictions_file, read_records
from vlmheads_eval.run_folder import CONFIG, read_config

KEYS = ("sample", "question_id", "id", "key", "index")
# "answer" comes late: in a data set's own rows it is the truth, and the model's stands beside it.
TEXTS = ("response", "prediction", "model_prediction", "model_answer", "answer", "text", "caption")
KeyOf = Callable[[Mapping[str, Any]], str | None]


def read_answers(path: Path, key_of: KeyOf = lambda record: None) -> dict[str, Answer]:
    """Read answers by question key from a run folder, JSON Lines or a JSON list.

    Args:
        path: the folder or file.
        key_of: finds the key in a record of the benchmark's own format; None where it cannot, and
            then the first of KEYS is taken.

    Raises:
        VlmHeadsError: no answers at all, a record without key or answer, or a question twice.
    """
    answers: dict[str, Answer] = {}
    failed = 0
    for place, record in read_records(predictions_file(path)):
        if record.get("error"):
            failed += 1
            continue
        key = _key(record, key_of)
        if key is None:
            raise VlmHeadsError(f"{place}: no question", f"one of {', '.join(KEYS)}")
        text = next((record[name] for name in TEXTS if isinstance(record.get(name), str)), None)
        if text is None:
            raise VlmHeadsError(f"{place}: no answer", f"a string as {' or '.join(TEXTS)}")
        if key in answers:
            raise VlmHeadsError(f"{place}: question {key} again", "one answer per question")
        answers[key] = Answer(text, record)
    if not answers:
        lost = f" ({failed} failed)" if failed else ""
        raise VlmHeadsError(f"{path} holds no answers{lost}", "one per question")
    return answers


def _key(record: dict[str, Any], key_of: KeyOf) -> str | None:
    if isinstance(record.get("sample"), str):
        return str(record["sample"])
    own = key_of(record)
    if own is not None:
        return own
    for name in KEYS:
        value = record.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    return None


def asked_items(
    benchmark: Benchmark, items: Sequence[Item], reading: str, runs: Mapping[Path, Answers]
) -> list[Item]:
    """Return the questions that a reading needs, and that all of the runs were to ask.

    These are the samples of a run folder, so that one of fewer questions (`predict --num`) is
    scored on them; otherwise all questions but the parts of the benchmark that a run leaves out as
    a whole, where the benchmark allows that.
    """
    if reading not in benchmark.readings:
        raise VlmHeadsError(f"reading {reading!r}", " or ".join(benchmark.readings))
    needed = [item for item in items if benchmark.asked(item, reading)]
    for run, answers in runs.items():
        if (run / CONFIG).is_file():
            listed = set(read_config(run)["samples"])
            unknown = listed - {item.key for item in items}
            if unknown:
                raise VlmHeadsError(
                    f"{run} asked {len(unknown)} questions that the data do not have, such as "
                    f"{min(unknown)}",
                    f"a run of {benchmark.name} on these data",
                )
            needed = [item for item in needed if item.key in listed]
        elif benchmark.optional_part is not None:
            part = benchmark.optional_part
            begun = {part(item) for item in items if item.key in answers}
            needed = [item for item in needed if part(item) in begun]
    if not needed:
        raise VlmHeadsError(f"no question of {benchmark.name} to score", "at least one")
    return needed


def match(items: Sequence[Item], answers: Answers, all_items: Sequence[Item], run: Path) -> None:
    """Refuse answers that do not fit the questions: missing ones, and ones to no question."""
    missing = [item.key for item in items if item.key not in answers]
    if missing:
        raise VlmHeadsError(
            f"{run}: {len(missing)} of {len(items)} questions without an answer, as {missing[0]}",
            "one answer per question",
            "resume the run, or retry what failed with --retry-failed",
        )
    known = {item.key for item in all_items}
    strange = next((key for key in answers if key not in known), None)
    if strange is not None:
        raise VlmHeadsError(f"{run}: an answer to question {strange}", "a question of the data")
