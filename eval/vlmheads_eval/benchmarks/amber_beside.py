"""What stands beside AMBER's official figures: intervals, floors, and answers read as sentences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmheads_eval.benchmarks.amber import GENERATIVE
from vlmheads_eval.benchmarks.amber_questions import AMBER
from vlmheads_eval.benchmarks.answers import read_answers
from vlmheads_eval.benchmarks.record import Questions, Source
from vlmheads_eval.benchmarks.score import score_benchmark
from vlmheads_eval.benchmarks.show import between, digest_lines, print_table, say, shown

DESCRIBED = ("CHAIR", "Cover", "Hal", "Cog")


def amber_intervals(data: Path, run: Path, similarity: str) -> dict[str, Any] | None:
    """Return AMBER's figures with intervals by image, under both readings.

    None where the images are not known, because query_*.json are not beside the annotations.
    Descriptions have intervals only if the same word alone counts as the same.

    Raises:
        VlmHeadsError: a task of which some questions have an answer and others have none.
    """
    folder = data if data.is_dir() else data.parent
    if not list(folder.glob("query_*.json")):
        return None
    questions = AMBER.load(Source(data))
    answers = read_answers(run)
    if similarity != "exact":
        kept = tuple(item for item in questions.items if item.part != GENERATIVE)
        described = {item.key for item in questions.items if item.part == GENERATIVE}
        questions = Questions(kept, questions.files)
        answers = {key: answer for key, answer in answers.items() if key not in described}
        if not answers:
            return None
    return {one: score_benchmark(AMBER, questions, answers, run, one) for one in AMBER.readings}


def print_amber(result: Mapping[str, Any]) -> None:
    """Print the official figures, answers read as sentences, intervals and floors."""
    described = result["generative"]
    if described:
        title = f"AMBER, descriptions, similarity {result['similarity']}, in %"
        print_table(title, list(described), [[str(value) for value in described.values()]])
    readings = {"discriminative": "official reading", "sentences": "answers read as sentences"}
    names = ("questions", "accuracy", "precision", "recall", "f1")
    for part, reading in readings.items() if result["discriminative"] else ():
        rows = [
            [name, *(str(row[one]) for one in names), shown(row["unparsed"])]
            for name, row in result[part].items()
        ]
        title = f'AMBER, questions ("No" is the positive class), {reading}, in %'
        print_table(title, ["part", *names, "unparsed"], rows)
    if result["amber_score"] is not None:
        say([f"AMBER score (mean of 100 - CHAIR and F1): {result['amber_score']}"])
    found = result["intervals"]
    if found is None:
        say(["no intervals: they need query_*.json beside the annotations"])
        return
    rows = []
    for name, figure in found["official"]["figures"].items():
        if name.endswith(("precision", "recall")):
            continue
        other = found["sentence"]["figures"][name]
        described = name in DESCRIBED
        floors = ["-", "-"] if described else [shown(one) for one in figure["floors"].values()]
        cells = [between(figure, "%"), "-" if described else shown(other["value"])]
        rows.append([name, *cells, str(figure["of"]), *floors])
    heads = ["figure", "official [95 %]", "sentences", "of", "yes", "no"]
    print_table("Without the script's rounding and starting counters, in %", heads, rows)
    about = found["official"]
    say(
        [
            f"{about['questions']} of the {about['questions_in_data']} items in the data, "
            f"{about['clusters']} images; 95 % intervals of {about['draws']} draws by image. "
            "Constant answers: always yes, always no.",
            'Existence is always "no", so its precision says nothing.',
            *digest_lines(about["sha256"]),
        ]
    )
