"""CAPTURE's matching of parsed captions (Dong et al., 2024), without its sentence encoder.

The full score needs a scene-graph parser and a sentence encoder on a GPU. From parsed graphs this
gives the figure with soft matching switched off, exactly or with WordNet's synonyms.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import read_text
from vlmheads_eval.compat import with_nltk_data
from vlmheads_eval.records import read_records
from vlmheads_eval.statistics import estimate, resample

WEIGHTS: Mapping[str, float] = {"object": 0.5, "attribute": 0.5, "relation": 0.2}
EPSILON = 1e-6  # The reference adds it to every denominator.
VARIANTS = ("synonyms", "exact")
Alike = Callable[[str, str], bool]


class Graph(NamedTuple):
    """A parsed caption: its objects, attributes of any of them, and (subject, relation, object)."""

    objects: tuple[str, ...]
    attributes: tuple[str, ...]
    relations: tuple[tuple[str, ...], ...]


def read_graph(place: str, value: Any, stop_words: frozenset[str] = frozenset()) -> Graph:
    """Return a graph from {"objects": [...], "attributes": {object: [...]}, "relations": [[3]]}."""
    try:
        objects = tuple(name for name in _strings(value["objects"]) if name not in stop_words)
        attributes = [word for words in value["attributes"].values() for word in _strings(words)]
        relations = tuple(tuple(_strings(one)) for one in value["relations"])
    except (KeyError, TypeError, AttributeError) as error:
        raise VlmHeadsError(f"{place}: no graph", "objects, attributes and relations") from error
    if any(len(one) != 3 for one in relations):
        raise VlmHeadsError(f"{place}: a relation without three parts", "subject, relation, object")
    return Graph(objects, tuple(attributes), relations)


def _strings(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError
    return values


@cache
def _lemmas(word: str) -> frozenset[str]:
    from nltk.corpus import wordnet

    found = with_nltk_data(lambda: wordnet.synsets(word.replace(" ", "_")), "wordnet")
    return frozenset(lemma.name() for synset in found for lemma in synset.lemmas())


def synonyms(first: str, second: str) -> bool:
    """Whether one word is part of the other, or WordNet lists a lemma for both.

    The first condition is the reference's: "car" matches "carpet".
    """
    return first in second or second in first or not _lemmas(first).isdisjoint(_lemmas(second))


def matches(candidates: Sequence[Any], references: Sequence[Any], alike: Alike | None) -> int:
    """Return how many candidates find a partner, equal ones first, each reference used once."""
    free = list(references)
    left = []
    for one in candidates:
        if one in free:
            free.remove(one)
        else:
            left.append(one)
    found = len(candidates) - len(left)
    for one in left if alike else ():
        parts = one if isinstance(one, tuple) else (one,)
        for other in free:
            others = other if isinstance(other, tuple) else (other,)
            if alike and all(alike(a, b) for a, b in zip(parts, others, strict=True)):
                free.remove(other)
                found += 1
                break
    return found


def compare_graphs(
    candidate: Graph, reference: Graph, variant: str = "synonyms"
) -> dict[str, float]:
    """Return CAPTURE of one graph against one reference, with precision, recall and F1 per kind.

    A kind that neither side has gets F1 0, as in the reference, so that a perfect caption of
    objects alone scores .417.
    """
    if variant not in VARIANTS:
        raise VlmHeadsError(f"variant {variant!r}", " or ".join(VARIANTS))
    alike = synonyms if variant == "synonyms" else None
    result: dict[str, float] = {}
    for kind, weight in WEIGHTS.items():
        ours, theirs = (getattr(graph, f"{kind}s") for graph in (candidate, reference))
        found = matches(ours, theirs, alike)
        precision, recall = found / (len(ours) + EPSILON), found / (len(theirs) + EPSILON)
        f1 = 2 * precision * recall / (precision + recall + EPSILON)
        result |= {f"{kind}_precision": precision, f"{kind}_recall": recall, f"{kind}_f1": f1}
        result["capture"] = result.get("capture", 0.0) + weight * f1
    result["capture"] /= sum(WEIGHTS.values())
    return result


def score_graphs(
    path: Path,
    variant: str = "synonyms",
    stop_words: Path | None = None,
    *,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the mean over images of the mean over references, from a file of parsed captions.

    Args:
        path: records {"id", "candidate": graph, "references": [graph, ...]}.
        variant: "synonyms" or "exact".
        stop_words: a file of objects that do not count, one per line, such as the reference's 317.
        draws: of images, for the 95 % intervals.
        seed: for the draws.
    """
    listed = read_text(stop_words, "one word per line") if stop_words else ""
    ignored = frozenset(listed.split())
    rows: dict[str, dict[str, float]] = {}
    for place, record in read_records(path):
        key, references = record.get("id"), record.get("references")
        if not isinstance(key, str | int) or not isinstance(references, list) or not references:
            raise VlmHeadsError(f"{place}: not a parsed caption", "id, candidate and references")
        if str(key) in rows:
            raise VlmHeadsError(f"{place}: {key} again", "each image once")
        candidate = read_graph(place, record.get("candidate"), ignored)
        found = [
            compare_graphs(candidate, read_graph(place, one, ignored), variant)
            for one in references
        ]
        rows[str(key)] = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    if not rows:
        raise VlmHeadsError(f"{path} holds no parsed caption", "one per line")
    names = list(next(iter(rows.values())))
    table = np.array([[row[name] for name in names] for row in rows.values()])
    drawn = resample({"run": table}, draws, seed)["run"] / len(table)
    found_at = {name: estimate(table[:, at].mean(), drawn[:, at]) for at, name in enumerate(names)}
    return {
        "benchmark": "capture",
        "variant": f"{variant}, without soft matching",
        "images": len(rows),
        "stop_words": len(ignored),
        "figures": {
            name: {"value": one.value, "low": one.low, "high": one.high, "of": len(rows)}
            for name, one in found_at.items()
        },
    }
