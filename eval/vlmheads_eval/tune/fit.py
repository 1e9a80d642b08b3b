"""Whether a model's captions fit the annotations at all, by a permutation test over images."""

from collections.abc import Mapping, Sequence

import numpy as np

DRAWS = 999
LEVEL = 0.01


def misfit(
    named: Mapping[str, frozenset[str]], truth: Mapping[str, frozenset[str]], seed: int
) -> str:
    """Return why nothing can be learned from these captions and annotations; "" where it can.

    Captions that name what is in their own image no more often than what is in others, drawn from
    the same data, come from a model that does not see, or the annotations belong to other images.
    Differences between two such runs are differences in what words they like.

    Args:
        named: image key -> objects that the plain caption names.
        truth: image key -> objects in the image.
        seed: of the permutations.
    """
    keys = sorted(named)
    columns = {name: at for at, name in enumerate(sorted(_all(named, keys) | _all(truth, keys)))}
    if not columns:
        return "neither the captions nor the annotations name an object"
    said, there = (_table(sets, keys, columns) for sets in (named, truth))
    hits = said @ there.T  # Objects of caption i that are in image j.
    rows = np.arange(len(keys))
    own = int(hits[rows, rows].sum())
    generator = np.random.default_rng(seed)
    others = np.array([hits[rows, generator.permutation(len(keys))].sum() for _ in range(DRAWS)])
    p = (1 + int((others >= own).sum())) / (1 + DRAWS)
    if p <= LEVEL:
        return ""
    return (
        f"the plain captions of {len(keys)} images name {own} objects that are in their own image "
        f"and {others.mean():.0f} that are in others (p = {p:.3f}): the annotations are not of "
        "these images, or the model does not see them"
    )


def _all(sets: Mapping[str, frozenset[str]], keys: Sequence[str]) -> frozenset[str]:
    return frozenset().union(*(sets[key] for key in keys))


def _table(
    sets: Mapping[str, frozenset[str]], keys: Sequence[str], columns: Mapping[str, int]
) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    table = np.zeros((len(keys), len(columns)), dtype=np.int64)
    for row, key in enumerate(keys):
        for name in sets[key]:
            table[row, columns[name]] = 1
    return table
