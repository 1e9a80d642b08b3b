"""POPEv2: each object asked for on a photo and on the photo with it removed (AAAI 2026)."""

from collections.abc import Sequence

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.files import read_table, table_files
from vlmheads_eval.benchmarks.readings import READINGS
from vlmheads_eval.benchmarks.record import (
    Answers,
    Benchmark,
    Figure,
    Item,
    Questions,
    Source,
    Tally,
    ratio,
    share,
)

SIDES = ("normal", "counterfactual")
READ_BY = {"strict": "first-word", "words": "words"}
ABOUT = {  # What each reading makes of an answer.
    "strict": "the first word is yes or no; anything else is wrong and no yes",
    "words": "the word yes or no anywhere, not both",
}


def load(source: Source) -> Questions:
    """Read Monosail/POPEv2's Parquet file, or a table with its columns: two questions a row."""
    files = table_files(source.path)
    items: dict[str, Item] = {}
    for row in read_table(source, files, [f"{side}_image" for side in SIDES]):
        number, question = row.text("example_id"), row.text("question")
        for side in SIDES:
            label = row.text(f"{side}_label").strip().lower()
            if label not in ("yes", "no"):
                raise VlmHeadsError(f"{row.place}: {side}_label {label[:40]!r}", "yes or no")
            picture = row.values.get(f"{side}_image")
            key = f"{number}/{side}"
            if key in items:
                raise VlmHeadsError(f"{row.place}: example {number} again", "each once")
            image = picture.file if picture else None
            items[key] = Item(key, question, label, number, side, image)
    if not items:
        raise VlmHeadsError(f"{source.path} holds no question", "POPEv2's table")
    return Questions(tuple(items.values()), files)


def tally(items: Sequence[Item], answers: Answers, reading: str) -> Tally:
    """Count questions by side, and rows with both answers right or with the same answer twice."""
    read = READINGS[READ_BY[reading]]
    result = Tally()
    rows: dict[str, list[tuple[str | None, bool]]] = {}
    for item in items:
        said = read(answers[item.key].text)
        right = said == item.label
        result.correct[item.key] = right
        rows.setdefault(item.cluster, []).append((said, right))
        result.add(
            item.cluster,
            asked=1,
            right=int(right),
            unparsed=int(said is None),
            yes=int(said == "yes"),
            present=int(item.label == "yes"),
            hits=int(said == item.label == "yes"),
            **{item.part: 1, f"{item.part} right": int(right)},
        )
    for name, both in rows.items():
        if len(both) == 2:
            (first, first_right), (second, second_right) = both
            same = int(first is not None and first == second)
            result.add(name, pairs=1, both=int(first_right and second_right), same=same)
    return result


def figures(items: Sequence[Item], reading: str) -> list[Figure]:
    """Return accuracies of either side, both and of pairs, and how often the answer stays."""
    return [
        Figure("accuracy", share("right", "asked"), "asked"),
        *(Figure(f"accuracy {s}", share(f"{s} right", s), s) for s in SIDES),
        Figure("pair accuracy", share("both", "pairs"), "pairs"),
        Figure("unchanged answer", share("same", "pairs"), "pairs"),
        Figure("precision", share("hits", "yes"), "yes"),
        Figure("recall", share("hits", "present"), "present"),
        Figure("F1", lambda sums: ratio(2 * sums["hits"], sums["yes"] + sums["present"]), "asked"),
        Figure("yes ratio", share("yes", "asked"), "asked"),
    ]


POPEV2 = Benchmark(
    "popev2", "POPEv2", "row", ABOUT, load, tally, figures, tested=("accuracy", "pair accuracy")
)
