"""docs/evidence.md's table and figure: published captions of real models under one scorer.

Run: python benchmarks/evidence.py ../shared/data/published --ground-truth gt_objects_2014.json

The folder holds a manifest of files (repository, licence, model, method) and of the comparisons
that their authors or others draw. The captions are third-party data: nothing of them is written,
only figures. Scores are kept in --cache, so that a second run only resamples.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import vlmheads_eval.chair
from evidence_report import write
from vlmheads_eval.chair.ground_truth import GroundTruth, load_ground_truth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.chair import compare_chair
from vlmheads_eval.compare.runs import RunScores, pooled, score_texts
from vlmheads_eval.records import Caption, file_sha256, image_key, read_captions

ROOT = Path(__file__).parents[1]
FEWEST = 290  # Images that a comparison across repositories needs.
PLAIN = ("greedy", "sampling", "plain", "dynamic cei, alpha 0 = plain")
KEPT = ("CHAIRs", "CHAIRi", "recall", "object_f1", "words", "repetition", "empty", "broken")


@dataclass(frozen=True)
class Comparison:
    """One comparison: runs pooled on either side, and where it comes from."""

    group: str
    label: str
    model: str
    baseline: tuple[str, ...]
    method: tuple[str, ...]
    listed: bool


def is_plain(entry: Mapping[str, Any]) -> bool:
    """Return whether a run is of the model alone, without any method."""
    return str(entry["method"]).lower().startswith(PLAIN)


def decoding(entry: Mapping[str, Any]) -> str | None:
    """Return how a plain run was decoded, as far as its authors say."""
    method = str(entry["method"]).lower()
    if method.startswith("greedy"):
        return "greedy"
    return "sampled" if method.startswith("sampling") else None


def listed(manifest: Mapping[str, Any]) -> list[Comparison]:
    """Return the comparisons of the manifest."""
    return [
        Comparison(
            pair["group"],
            pair["label"],
            pair["model"],
            tuple(pair["baseline"]),
            tuple(pair["method"]),
            True,
        )
        for pair in manifest["pairs"]
    ]


def others(manifest: Mapping[str, Any], runs: Mapping[str, RunScores]) -> Iterator[Comparison]:
    """Yield every run against every plain run of its model, token limit and images.

    Two plain runs are compared once: such a comparison is a null one.
    """
    entries = manifest["files"]
    seen = {(one.baseline, one.method) for one in listed(manifest)}
    for first, baseline in entries.items():
        for second, method in entries.items():
            same = all(baseline[key] == method[key] for key in ("model", "token_limit"))
            again = (first,), (second,)
            if first == second or not is_plain(baseline) or not same or again in seen:
                continue
            if is_plain(method) and (second > first or again[::-1] in seen):
                continue
            if len(set(runs[first].images) & set(runs[second].images)) < FEWEST:
                continue
            across = baseline["repository"] != method["repository"]
            group = "across repositories" if across else "within a repository"
            yield Comparison(
                group,
                f"{second} against {first}",
                method["model"],
                (first,),
                (second,),
                False,
            )


def score(
    name: str, entry: Mapping[str, Any], folder: Path, truth: GroundTruth, cache: Path, code: str
) -> RunScores:
    """Return a file's scores, from the cache if neither the file nor the scorer has changed."""
    file = folder.parent / entry["file"]
    key = hashlib.sha256(f"{file_sha256(file)} {code}".encode()).hexdigest()[:24]
    kept = cache / f"{key}.npz"
    if kept.is_file():
        with np.load(kept) as found:
            images = tuple(str(image) for image in found["images"])
            return RunScores(name, images, found["counts"], found["cut"], decoding(entry))
    captions = first_of_each(read_captions(file, repeats=True))
    found = score_texts(name, captions, truth, get_variant("pattern"), decoding(entry))
    cache.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(kept, images=np.array(found.images), counts=found.counts, cut=found.cut)
    return found


def first_of_each(captions: Iterator[Caption]) -> Iterator[Caption]:
    """Yield the first caption of every image: one file holds two runs, one after the other."""
    seen = set()
    for caption in captions:
        key = image_key(caption.image_id)
        if key not in seen:
            seen.add(key)
            yield caption


def scorer_digest(ground_truth: Path) -> str:
    """Return a digest of the scorer's sources and the ground truth."""
    package = Path(next(iter(vlmheads_eval.chair.__path__)))
    digest = hashlib.sha256(file_sha256(ground_truth).encode())
    for source in sorted(package.iterdir()):
        if source.suffix in (".py", ".json", ".txt"):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def compare(one: Comparison, runs: Mapping[str, RunScores], draws: int) -> dict[str, Any]:
    """Return what the document says of one comparison."""
    sides = [_side(names, runs, title) for names, title in ((one.baseline, "a"), (one.method, "b"))]
    result = compare_chair(sides, draws=draws, seed=0)
    (method,) = result["methods"]
    return {
        "group": one.group,
        "label": one.label,
        "model": one.model,
        "baseline": list(one.baseline),
        "method": list(one.method),
        "listed": one.listed,
        "images": result["images"],
        "kinds": [run["kind"] for run in result["runs"]],
        "figures": [_rounded({name: run["overall"][name] for name in KEPT}) for run in
                    result["runs"]],
        "difference": {
            name: _rounded(method["difference"][name]) for name in ("CHAIRs", "recall", "object_f1")
        },
        "at_recall": _rounded(method["at_recall"]["CHAIRs"]),
        "f1_at_recall": _rounded(method["at_recall"]["object_f1"]),
        "images_needed": method["images_needed"]["at recall CHAIRs"],
        "verdict": method["verdict"],
        "flags": [
            {**flag, **_rounded(flag, ("value", "baseline")),
             "difference": _rounded(flag["difference"])}
            for flag in method["flags"]
        ],
    }  # fmt: skip


def _side(names: Sequence[str], runs: Mapping[str, RunScores], title: str) -> RunScores:
    return pooled(title, [runs[name] for name in names])


def _rounded(
    values: Mapping[str, Any], names: Sequence[str] | None = None
) -> dict[str, float | None]:
    chosen = values if names is None else {name: values[name] for name in names}
    return {name: None if value is None else round(value, 5) for name, value in chosen.items()}


def main() -> None:
    """Score, compare, and write the JSON, the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path)
    parser.add_argument("--ground-truth", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--cache", type=Path, default=ROOT / "out" / "evidence")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/evidence.json")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/evidence.md")
    options = parser.parse_args()

    clock, processor = time.perf_counter(), time.process_time()
    manifest = json.loads((options.published / "manifest.json").read_text("utf-8"))
    truth = load_ground_truth([options.ground_truth], get_variant("pattern"))
    code = scorer_digest(options.ground_truth)
    runs = {
        name: score(name, entry, options.published, truth, options.cache, code)
        for name, entry in manifest["files"].items()
    }
    pairs = [*listed(manifest), *others(manifest, runs)]
    result = {
        "about": "Published captions of real models, CHAIR variant pattern; see docs/evidence.md.",
        "files": {
            name: {key: entry[key] for key in ("repository", "licence", "model", "method")}
            for name, entry in manifest["files"].items()
        },
        "draws": options.draws,
        "comparisons": [compare(one, runs, options.draws) for one in pairs],
        "machine": f"{platform.machine()}, one core",
    }
    result["seconds"] = {
        "clock": round(time.perf_counter() - clock),
        "processor": round(time.process_time() - processor),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    for file in write(result, options.document):
        print(file)


if __name__ == "__main__":
    main()
