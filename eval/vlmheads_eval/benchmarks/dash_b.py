"""DASH-B: images that make models see objects that are not there (Augustin et al., ICCV 2025)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmheads import schema
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
    Sums,
    Tally,
    harmonic,
    ratio,
    share,
)
from vlmheads_eval.records import inside

QUESTION = "Can you see a {} in this image? Please answer only with yes or no."
LISTS = {"no": "dash_benchmark_neg.json", "yes": "dash_benchmark_pos.json"}
Listed = dict[str, dict[str, list[str]]]  # Data set -> object -> file names.
READ_BY = {"official": "letters", "strict": "first-word"}
ABOUT = {  # What each reading makes of an answer.
    "official": "the letters yes anywhere, else no; neither is wrong",
    "strict": "the first word is yes or no",
}


def load(source: Source) -> Questions:
    """Read YanNeu/DASH-B's Parquet files, or the repository's two lists with their images."""
    lists = _lists(source.path)
    items = _listed(source, lists) if lists else _table(source)
    if not items.items:
        raise VlmHeadsError(f"{source.path} holds no question", "DASH-B's data")
    keys: set[str] = set()
    for item in items.items:
        if item.key in keys:
            raise VlmHeadsError(f"{source.path}: question {item.key} again", "each once")
        keys.add(item.key)
    return items


def _lists(path: Path) -> dict[str, Path]:
    """Return the two lists of a checkout of the repository, or of its folder `images`."""
    for folder in (path, path / "images"):
        found = {label: folder / name for label, name in LISTS.items()}
        if all(file.is_file() for file in found.values()):
            return found
    return {}


def _listed(source: Source, lists: dict[str, Path]) -> Questions:
    items = []
    for label, path in lists.items():
        side = "pos" if label == "yes" else "neg"
        folder = (source.images or path.parent) / side
        listed: Listed = schema.read(path, Listed, "data set -> object -> file names")
        for dataset, objects in listed.items():
            for name, files in objects.items():
                for file in files:
                    image = inside(folder, f"{dataset}/{name}/{file}", str(path))
                    key = f"{side}/{dataset}/{name}/{file}"
                    items.append(Item(key, QUESTION.format(name), label, name, dataset, image))
    return Questions(tuple(items), tuple(lists.values()))


def _table(source: Source) -> Questions:
    files = table_files(source.path)
    items = []
    for row in read_table(source, files):
        label = row.text("gt", "answer").strip().lower()
        if label not in ("yes", "no"):
            raise VlmHeadsError(f"{row.place}: answer {label[:40]!r}", "yes or no")
        name = row.text("object", "object_name")
        question = row.values.get("question")
        text = question if isinstance(question, str) and question else QUESTION.format(name)
        picture = row.values.get("image")
        image = picture.file if picture else None
        items.append(Item(row.text("question_id", "img_id"), text, label, name, "", image))
    return Questions(tuple(items), files)


def tally(items: Sequence[Item], answers: Answers, reading: str) -> Tally:
    """Count answers by the object asked for."""
    read = READINGS[READ_BY[reading]]
    result = Tally()
    for item in items:
        said = read(answers[item.key].text)
        right = said == item.label
        result.correct[item.key] = right
        side = "positive" if item.label == "yes" else "negative"
        columns = {side: 1, f"{side} right": int(right)}
        result.add(item.cluster, asked=1, right=int(right), unparsed=int(said is None), **columns)
    return result


def figures(items: Sequence[Item], reading: str) -> list[Figure]:
    """Return accuracy, the true negative and true positive rates, and their harmonic mean."""
    return [
        Figure("ACC", share("right", "asked"), "asked"),
        Figure("TNR", share("negative right", "negative"), "negative"),
        Figure("TPR", share("positive right", "positive"), "positive"),
        Figure("harmonic mean", _harmonic, "asked"),
    ]


def _harmonic(sums: Sums) -> Any:
    sides = ("negative", "positive")
    first, second = (ratio(sums.get(f"{s} right", 0), sums.get(s, 0)) for s in sides)
    return harmonic(first, second)


DASH_B = Benchmark("dash-b", "DASH-B", "object", ABOUT, load, tally, figures, tested=("ACC",))
