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


def print_amber_beside(result: Mapping[str, Any]) -> None:
    """Print answers read as sentences, and official accuracy and F1 with intervals and floors."""
    if result["sentences"]:
        names = ("questions", "accuracy", "precision", "recall", "f1")
        rows = [
            [part, *(str(row[name]) for name in names), shown(row["unparsed"])]
            for part, row in result["sentences"].items()
        ]
        heads = ["part", *names, "unparsed %"]
        print_table("The same with answers read as sentences (ours)", heads, rows)
    found = result["intervals"]
    if found is None:
        say(["no intervals: they need query_*.json beside the annotations"])
        return
    rows = []
    for name, figure in found["official"]["figures"].items():
        if name.endswith(("precision", "recall")):
            continue
        other = found["sentence"]["figures"][name]
        described = name in ("CHAIR", "Cover", "Hal", "Cog")
        floors = ["-", "-"] if described else [shown(one) for one in figure["floors"].values()]
        cells = [between(figure, "%"), "-" if described else between(other, "%")]
        rows.append([name, *cells, str(figure["of"]), *floors])
    heads = ["figure", "official [95 %]", "as sentences", "of", "always yes", "always no"]
    print_table("Not rounded, denominators from 0, in %", heads, rows)
    about = found["official"]
    say(
        [
            f"{about['clusters']} images; 95 % intervals of {about['draws']} draws by image. "
            'Existence is always "no", so its precision says nothing.',
            *digest_lines(about["sha256"]),
        ]
    )
