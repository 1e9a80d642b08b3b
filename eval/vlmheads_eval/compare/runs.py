"""One run of captions as counts per image, and runs of several seeds pooled into one."""

import heapq
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.measures import CaptionScore, Counts, count
from vlmheads_eval.chair.score import LONGEST, score_captions, truncated_counts
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.records import Caption, image_key, read_captions
from vlmheads_eval.run_folder import CONFIG, read_config
from vlmheads_eval.statistics import Array

# The columns that truncated captions have; those after them describe whole captions.
CUT_COLUMNS = Counts._fields.index("words") + 1
WORST = 8
DECODINGS = ("greedy", "sampled", "beams")
UNKNOWN = "decoding not stated"


@dataclass(frozen=True)
class Gallery:
    """What a report shows of a run's captions.

    Args:
        captions: how many there are.
        mentioned: mentions by category.
        hallucinated: those among them of objects that are not there.
        worst: the captions with the most hallucinated categories.
    """

    captions: int = 0
    mentioned: Counter[str] = field(default_factory=Counter)
    hallucinated: Counter[str] = field(default_factory=Counter)
    worst: tuple[tuple[Caption, CaptionScore], ...] = ()


@dataclass(frozen=True, eq=False)
class RunScores:
    """The scores of one run, with one caption per image or more.

    Args:
        name: as shown in tables.
        images: image keys, sorted, so that no comparison depends on the order of files or runs.
        counts: [images, columns of `Counts`], summed over an image's captions.
        cut: [images, LONGEST + 1, CUT_COLUMNS], the same of captions cut after 1, 2, ... sentences
            and whole.
        decoding: "greedy", "sampled", "beams" or None if unknown.
        seeds: how many runs are pooled in it.
        read_by: the variant that found the mentions, and what it was read with if that varies.
        gallery: for reports.
    """

    name: str
    images: tuple[str, ...]
    counts: Array
    cut: Array
    decoding: str | None = None
    seeds: int = 1
    read_by: str = ""
    gallery: Gallery = field(default_factory=Gallery)

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Image key -> row."""
        return {key: row for row, key in enumerate(self.images)}

    @property
    def kind(self) -> str:
        """How it was decoded, and from how many seeds, in words."""
        known = self.decoding or UNKNOWN
        return known if self.seeds == 1 else f"{known}, {self.seeds} runs pooled"

    def of(self, images: Sequence[str]) -> tuple[Array, Array]:
        """Return counts and cut counts of some images, in their order."""
        if tuple(images) == self.images:
            return self.counts, self.cut
        at = [self.rows[key] for key in images]
        return self.counts[at], self.cut[at]


def score_run(
    name: str, path: Path, truth: GroundTruth, variant: Variant, decoding: str | None = None
) -> RunScores:
    """Return the scores of a run for every image.

    Args:
        name: as shown in tables.
        path: a run folder, or a file of captions.
        truth: what is in the images.
        variant: how mentions are found.
        decoding: one of `DECODINGS`; by default that of the run folder's config.
    """
    return score_texts(name, read_captions(path), truth, variant, decoding or decoding_of(path))


def score_texts(
    name: str,
    captions: Iterable[Caption],
    truth: GroundTruth,
    variant: Variant,
    decoding: str | None = None,
) -> RunScores:
    """Return the scores of captions; see `score_run`."""
    rows: dict[str, int] = {}
    owners = array("q")
    counts, cut = array("i"), array("i")
    mentioned: Counter[str] = Counter()
    hallucinated: Counter[str] = Counter()
    worst: list[tuple[int, int, Caption, CaptionScore]] = []
    for caption, words, score in score_captions(captions, truth, variant):
        full = count(caption, score)
        counts.extend(full)
        for point in truncated_counts(words, score, variant):
            cut.extend(point[:CUT_COLUMNS].tolist())
        cut.extend(full[:CUT_COLUMNS])
        mentioned.update(mention.node for mention in score.mentions)
        wrong = score.hallucinated
        hallucinated.update(mention.node for mention in wrong)
        if wrong:
            entry = (len({m.node for m in wrong}), -len(owners), caption, score)
            (heapq.heappush if len(worst) < WORST else heapq.heappushpop)(worst, entry)
        owners.append(rows.setdefault(image_key(caption.image_id), len(rows)))
    shape = (len(owners), LONGEST + 1, CUT_COLUMNS)
    gallery = Gallery(
        len(owners),
        mentioned,
        hallucinated,
        tuple((caption, score) for *_, caption, score in sorted(worst, reverse=True)),
    )
    images = sorted(rows)
    order = np.array([rows[key] for key in images], dtype=np.intp)
    whole = np.frombuffer(counts, np.intc).reshape(len(owners), len(Counts._fields))
    return RunScores(
        name,
        tuple(images),
        _by_image(whole, owners, order),
        _by_image(np.frombuffer(cut, np.intc).reshape(shape), owners, order),
        decoding,
        read_by=f"{variant.name} {variant.read_with or ''}".strip(),
        gallery=gallery,
    )


def _by_image(rows: Array, owners: Sequence[int], order: Array) -> Array:
    """Return the sums of an image's captions, with the images in an order."""
    if len(rows) == len(order):
        return rows if (np.diff(order) > 0).all() else rows[order]
    sums = np.zeros((len(order), *rows.shape[1:]), rows.dtype)
    np.add.at(sums, np.asarray(owners), rows)
    return sums[order]


def decoding_of(path: Path) -> str | None:
    """Return how a run folder's captions were decoded; None for a file of captions."""
    if not (path / CONFIG).is_file():
        return None
    found: Any = read_config(path).get("decoding", "greedy")  # `predict` searches greedily.
    return str(found)


def common_images(runs: Sequence[RunScores]) -> list[str]:
    """Return the images that every run has; refuse duplicate names."""
    names = [run.name for run in runs]
    if len(set(names)) != len(names):
        raise VlmHeadsError(f"two runs of one name among {names}", "distinct names")
    images = [key for key in runs[0].images if all(key in run.rows for run in runs[1:])]
    if not images:
        raise VlmHeadsError(f"no image that {' and '.join(names)} have in common", "at least one")
    return images


def pooled(name: str, runs: Sequence[RunScores]) -> RunScores:
    """Return runs of several seeds, or several draws of a control, as one.

    An image's counts are the means over the runs that have it, so that an image counts once however
    many runs have it, and a bootstrap over images keeps its captions together.
    """
    images = tuple(sorted({key for run in runs for key in run.images}))
    rows = {key: row for row, key in enumerate(images)}
    sums = [np.zeros((len(images), *part.shape[1:])) for part in (runs[0].counts, runs[0].cut)]
    have = np.zeros(len(images))
    for run in runs:
        at = [rows[key] for key in run.images]
        sums[0][at] += run.counts
        sums[1][at] += run.cut
        have[at] += 1
    counts, cut = (part / have.reshape(-1, *[1] * (part.ndim - 1)) for part in sums)
    decodings = {run.decoding for run in runs}
    return RunScores(
        name,
        images,
        counts,
        cut,
        decodings.pop() if len(decodings) == 1 else None,
        sum(run.seeds for run in runs),
        " and ".join(sorted({run.read_by for run in runs})),
        _merged([run.gallery for run in runs]),
    )


def _merged(galleries: Sequence[Gallery]) -> Gallery:
    worst = [pair for gallery in galleries for pair in gallery.worst]
    worst.sort(key=lambda pair: -len({mention.node for mention in pair[1].hallucinated}))
    return Gallery(
        sum(gallery.captions for gallery in galleries),
        sum((gallery.mentioned for gallery in galleries), Counter()),
        sum((gallery.hallucinated for gallery in galleries), Counter()),
        tuple(worst[:WORST]),
    )


SEED = re.compile(r"[-_. ]*(?:seed|s)?[-_. ]*\d+$", re.IGNORECASE)


def pool_seeds(runs: Sequence[RunScores]) -> list[RunScores]:
    """Pool runs whose names are the same but for a seed at the end: "vcd-0", "vcd-1"; "a_s1".

    Raises:
        VlmHeadsError: nothing to pool.
    """
    groups: dict[str, list[RunScores]] = {}
    for run in runs:
        groups.setdefault(SEED.sub("", run.name) or run.name, []).append(run)
    if all(len(group) == 1 for group in groups.values()):
        raise VlmHeadsError(
            f"--pool with {', '.join(run.name for run in runs)}",
            "runs whose names differ only in a seed at the end, such as vcd-0 and vcd-1",
            "name them with --names, or leave --pool out",
        )
    return [group[0] if len(group) == 1 else pooled(stem, group) for stem, group in groups.items()]
