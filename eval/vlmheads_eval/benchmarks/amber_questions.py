"""AMBER as a benchmark of items on images: for intervals, floors, and comparisons of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.amber import (
    DIMENSIONS,
    GENERATIVE,
    AmberTruth,
    load_amber,
    score_description,
    similarity,
)
from vlmheads_eval.benchmarks.amber_score import NAMES, READ_BY
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
from vlmheads_eval.records import inside, read_records

DESCRIPTIONS = "descriptions"
ABOUT = {  # What each reading makes of an answer.
    "official": 'exactly "Yes" or "No"',
    "sentence": "the first word if it is yes or no, otherwise what the sentence states",
}


def load(source: Source) -> Questions:
    """Read AMBER's annotations, and its query_*.json for what was asked about which image."""
    truth = load_amber(source.path)
    folder = source.path if source.path.is_dir() else source.path.parent
    queries: dict[int, tuple[str, str]] = {}
    paths = sorted(folder.glob("query_*.json"))
    for path in paths:
        for place, record in read_records(path):
            number, text, image = (record.get(name) for name in ("id", "query", "image"))
            if (
                not isinstance(number, int)
                or not isinstance(text, str)
                or not isinstance(image, str)
            ):
                raise VlmHeadsError(f"{place}: not a query", "id, query and image")
            if queries.setdefault(number, (text, image)) != (text, image):
                raise VlmHeadsError(f"{place}: query {number} again", "each once")
    missing = [number for number in truth.items if number not in queries]
    if missing:
        raise VlmHeadsError(
            f"{folder}: no query of item {missing[0]}", "query_*.json beside annotations.json"
        )
    items = [
        _item(number, truth, *queries[number], source.images) for number in sorted(truth.items)
    ]
    return Questions(tuple(items), (*truth.files, *paths))


def _item(number: int, truth: AmberTruth, text: str, image: str, folder: Path | None) -> Item:
    entry = truth.items[number]
    generative = entry["type"] == GENERATIVE
    facts: dict[str, Any] = {"kind": DESCRIPTIONS} if generative else {}
    if generative:
        facts |= {"entry": entry, "amber": truth}
    label = "" if generative else str(entry["truth"])
    file = inside(folder, image, f"query {number}") if folder else None
    return Item(str(number), text, label, image, str(entry["type"]), file, facts)


def optional_part(item: Item) -> str:
    """Return the task of AMBER that an item belongs to: it may be left out as a whole."""
    return GENERATIVE if item.part == GENERATIVE else DIMENSIONS[item.part][0]


def tally(items: Sequence[Item], answers: Answers, reading: str) -> Tally:
    """Count questions per dimension, and objects in descriptions, by image."""
    read = READ_BY[reading]
    alike = similarity("exact")
    result = Tally()
    for item in items:
        text = answers[item.key].text
        if item.part == GENERATIVE:
            found = score_description(text, item.facts["entry"], item.facts["amber"], alike)
            result.correct[item.key] = found.hallucinated == 0
            hallucinating = int(found.hallucinated > 0)
            result.add(item.cluster, descriptions=1, hallucinating=hallucinating, **vars(found))
            continue
        said = read(text)
        result.correct[item.key] = said == item.label
        columns = {
            "asked": 1,
            "right": int(said == item.label),
            "no": int(said == "no"),
            "true no": int(item.label == "no"),
            "hits": int(said == item.label == "no"),
            "unparsed": int(said is None),
        }
        result.add(item.cluster, asked=1, unparsed=int(said is None))
        for name in ("all", *DIMENSIONS[item.part]):
            result.add(item.cluster, **{f"{name} {column}": n for column, n in columns.items()})
    if "asked" not in result.columns():
        for cluster in result.clusters:
            result.add(cluster, asked=0)
    return result


def figures(items: Sequence[Item], reading: str) -> list[Figure]:
    """Return CHAIR, Cover, Hal and Cog, and for all questions and each dimension four measures.

    Unlike what the official script prints they are not rounded and start at zero.
    """
    kinds = {item.part for item in items}
    found: list[Figure] = []
    dimensions = {name for kind in kinds for name in ("all", *DIMENSIONS.get(kind, ()))}
    for name in NAMES if kinds - {GENERATIVE} else ():
        if name in dimensions:
            found += _of_dimension(name)
    if GENERATIVE in kinds:
        found += [
            Figure("CHAIR", share("hallucinated", "nouns"), "nouns"),
            Figure("Cover", share("covered", "truth"), "truth"),
            Figure("Hal", share("hallucinating", "descriptions"), "descriptions"),
            Figure("Cog", share("likely_named", "likely"), "likely"),
        ]
    return found


def _of_dimension(name: str) -> list[Figure]:
    asked, said, true = (f"{name} {column}" for column in ("asked", "no", "true no"))
    hits = f"{name} hits"
    return [
        Figure(f"{name} accuracy", share(f"{name} right", asked), asked),
        Figure(f"{name} precision", share(hits, said), said),
        Figure(f"{name} recall", share(hits, true), true),
        Figure(f"{name} F1", lambda sums: ratio(2 * sums[hits], sums[said] + sums[true]), asked),
    ]


AMBER = Benchmark(
    "amber",
    "AMBER",
    "image",
    ABOUT,
    load,
    tally,
    figures,
    tested=("all accuracy", "all F1", "CHAIR", "Hal"),
    optional_part=optional_part,
)
