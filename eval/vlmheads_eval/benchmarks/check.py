"""What is on disk for a benchmark: counts, repeated ids, missing images, digests."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.catalogue import LISTINGS
from vlmheads_eval.benchmarks.files import digests
from vlmheads_eval.benchmarks.record import Item, Questions, Source
from vlmheads_eval.benchmarks.registry import ASKED, COMPARED
from vlmheads_eval.chair.ground_truth import annotation_files, load_annotations
from vlmheads_eval.pope.questions import read_questions
from vlmheads_eval.records import image_key

SHOWN = 3  # Missing files that are named.


@dataclass
class Findings:
    """What a check counted, and what is wrong.

    Args:
        counts: what -> how many.
        problems: in plain words; none if all is well.
        sha256: file -> digest.
        notes: what could not be checked.
    """

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def expect(self, expected: Mapping[str, int]) -> None:
        """Name every count that differs from what the full data have."""
        for name, number in expected.items():
            if self.counts.get(name, 0) != number:
                self.problems.append(f"{self.counts.get(name, 0)} {name}, {number} expected")

    def look_for(self, images: Iterable[Path]) -> None:
        """Count image files, and name those that are missing."""
        wanted = list(dict.fromkeys(images))
        missing = [path for path in wanted if not path.is_file()]
        self.counts["images"] = len(wanted)
        if missing:
            named = ", ".join(str(path) for path in missing[:SHOWN])
            more = " and others" if len(missing) > SHOWN else ""
            self.problems.append(f"{len(missing)} of {len(wanted)} images missing: {named}{more}")

    def fingerprint(self, files: Sequence[Path], known: Mapping[str, tuple[str, ...]]) -> None:
        """Add digests, and name the files that differ from all versions known."""
        self.sha256 |= digests(files)
        for name, digest in self.sha256.items():
            if digest not in known.get(Path(name).name, (digest,)):
                self.problems.append(f"{name} is not a version known to us")


def check(name: str, data: Sequence[Path], images: Path | None) -> Findings:
    """Return what a benchmark's data on disk hold.

    Raises:
        VlmHeadsError: an unknown name, files that cannot be read, or ones of another benchmark.
    """
    if name not in LISTINGS:
        raise VlmHeadsError(f"data {name!r}", " or ".join(LISTINGS))
    special: Mapping[str, Callable[[Sequence[Path], Path | None], Findings]] = {
        "coco": _coco,
        "pope": _pope,
    }
    if name in special:
        return special[name](data, images)
    if name == "capture":
        raise VlmHeadsError(
            "parsed captions, which have no fixed form to check", todo="use eval score capture"
        )
    if len(data) != 1:
        raise VlmHeadsError(f"{len(data)} --data", "one")
    load = COMPARED[name].load if name in COMPARED else ASKED[name]
    return _benchmark(name, load(Source(data[0], images)))


def _benchmark(name: str, questions: Questions) -> Findings:
    found = Findings()
    items = questions.items
    found.counts["questions"] = len(items)
    parts = Counter(item.part for item in items if item.part)
    found.counts |= {part.lower(): number for part, number in parts.items()}
    labels = Counter(item.label for item in items if item.label)
    found.counts |= {f"answer {label}": number for label, number in sorted(labels.items())}
    unit = COMPARED[name].unit if name in COMPARED else "question"
    clusters = len({item.cluster for item in items})
    if unit not in ("question", "image"):
        found.counts[f"{unit}s"] = clusters
    if name == "hallusionbench":
        seen = [item for item in items if item.facts["visual_input"] != "0"]
        found.counts["questions with an image"] = len(seen)
        clusters = len({item.facts["figure"] for item in seen})
    if all(file.suffix == ".parquet" for file in questions.files):
        found.counts["images"] = clusters if unit in ("image", "set") else len(items)
        # HallusionBench has questions that go without an image.
        found.problems += _empty_images(questions.files) if name != "hallusionbench" else []
    else:
        _images(found, items, clusters)
    found.expect(LISTINGS[name].counts)
    found.fingerprint(questions.files, LISTINGS[name].sha256)
    return found


def _images(found: Findings, items: Sequence[Item], clusters: int) -> None:
    given = [item.image for item in items if item.image is not None]
    if given:
        found.look_for(given)
        return
    found.counts["images"] = clusters
    found.notes.append("images not checked: pass --images")


def _empty_images(files: Sequence[Path]) -> list[str]:
    """Name the Parquet columns of images that have rows without content, by their statistics."""
    from pyarrow import parquet

    problems = []
    for path in files:
        about = parquet.ParquetFile(path).metadata
        empty: Counter[str] = Counter()
        for group in range(about.num_row_groups):
            for at in range(about.num_columns):
                column = about.row_group(group).column(at)
                known = column.statistics
                if column.path_in_schema.endswith(".bytes") and known and known.has_null_count:
                    empty[column.path_in_schema.removesuffix(".bytes")] += known.null_count
        problems += [
            f"{path}: {number} rows without {name}" for name, number in empty.items() if number
        ]
    return problems


def _coco(data: Sequence[Path], images: Path | None) -> Findings:
    from vlmheads_eval.data import coco_images

    if len(data) != 1 or not data[0].is_dir():
        raise VlmHeadsError(f"{', '.join(map(str, data))}", "COCO's folder")
    found = Findings()
    files = annotation_files(data[0])
    for path in files:
        content = load_annotations(path)
        for kind in ("images", "annotations"):
            entries = content.get(kind)
            if not isinstance(entries, list):
                raise VlmHeadsError(f"{path} without {kind}", "COCO's annotations")
            found.counts[f"{path.name}: {kind}"] = len(entries)
            try:
                keys = Counter(image_key(entry["id"]) for entry in entries)
            except (KeyError, TypeError) as error:
                raise VlmHeadsError(
                    f"{path}: one of the {kind} without id", "an id each"
                ) from error
            twice = [key for key, number in keys.items() if number > 1]
            if twice:
                found.problems.append(
                    f"{path.name}: {len(twice)} {kind} with a repeated id, {twice[0]}"
                )
    entries_by_key, _ = coco_images(data[0], images)
    found.look_for(path for _, path in entries_by_key.values())
    found.fingerprint(files, {})
    return found


def _pope(data: Sequence[Path], images: Path | None) -> Findings:
    found = Findings()
    names = []
    for path in data:
        file = read_questions(path)
        found.counts[f"{path.name}: questions"] = len(file.questions)
        if not file.questions:
            found.problems.append(f"{path.name} is empty")
        labels = Counter(question.label for question in file.questions)
        found.counts |= {f"{path.name}: answer {one}": n for one, n in sorted(labels.items())}
        names += [question.image for question in file.questions]
        found.sha256[str(path)] = file.sha256
    if images is None:
        found.counts["images"] = len(set(names))
        found.notes.append("images not checked: pass --images")
    else:
        found.look_for(images / name for name in names)
    return found
