"""Statistics of questions that belong together: intervals and tests that keep clusters whole."""

from collections.abc import Mapping, Sequence

import numpy as np

from vlmheads_eval.benchmarks.record import Array, Figure, Sums, Tally
from vlmheads_eval.statistics import Estimate, estimate, resample


def cluster_table(tally: Tally, clusters: Sequence[str], columns: Sequence[str]) -> Array:
    """Return the sums of a tally [clusters, columns]; 0 where a cluster has no such column."""
    return np.array([[tally.clusters[name][column] for column in columns] for name in clusters])


def by_column(table: Array, columns: Sequence[str]) -> Sums:
    """Return the columns of sums [..., columns] by name."""
    return {name: table[..., at] for at, name in enumerate(columns)}


def intervals(
    tally: Tally, figures: Sequence[Figure], draws: int, seed: int
) -> dict[str, Estimate]:
    """Return every figure with its percentile interval over draws of whole clusters.

    With a single cluster there is nothing to resample, and no interval.
    """
    columns, clusters = tally.columns(), list(tally.clusters)
    table = cluster_table(tally, clusters, columns)
    sums = by_column(table.sum(axis=0), columns)
    if len(clusters) < 2:
        return {figure.name: _bare(figure.value(sums)) for figure in figures}
    drawn = by_column(resample({"run": table}, draws, seed)["run"], columns)
    return {figure.name: estimate(figure.value(sums), figure.value(drawn)) for figure in figures}


def _bare(value: Array) -> Estimate:
    return Estimate(None if np.isnan(value) else float(value))


def paired_differences(
    first: Tally, second: Tally, figures: Sequence[Figure], draws: int, seed: int
) -> dict[str, Estimate]:
    """Return second minus first of every figure, with both runs on the same draws of clusters."""
    columns = list(dict.fromkeys(first.columns() + second.columns()))
    clusters = list(first.clusters)
    tables = {
        name: cluster_table(tally, clusters, columns)
        for name, tally in (("first", first), ("second", second))
    }
    drawn = resample(tables, draws, seed)
    found = {}
    for figure in figures:
        levels = [figure.value(by_column(tables[n].sum(axis=0), columns)) for n in tables]
        moved = [figure.value(by_column(drawn[n], columns)) for n in tables]
        found[figure.name] = estimate(levels[1] - levels[0], moved[1] - moved[0])
    return found


def exchange_test(differences: Sequence[int]) -> float:
    """Return the exact two-sided p value of McNemar's test with whole clusters exchanged.

    Under the null hypothesis the two runs are alike, so the net gain of a cluster (its questions
    that only the second run answers correctly, minus those of the first) has either sign with
    probability one half. With one question per cluster this is McNemar's exact test.

    Args:
        differences: the net gain of each cluster.
    """
    sizes = [abs(value) for value in differences if value]
    reach = sum(sizes)
    if not reach:
        return 1.0
    chance = np.zeros(2 * reach + 1)  # Of every total from -reach to reach.
    chance[reach] = 1.0
    for size in sizes:
        moved = np.zeros_like(chance)
        moved[size:] += chance[:-size] / 2
        moved[:-size] += chance[size:] / 2
        chance = moved
    total = abs(sum(differences))
    extreme = chance[: reach - total + 1].sum() + chance[reach + total :].sum()
    return float(min(1.0, extreme if total else 1.0))


def net_gains(
    first: Mapping[str, bool], second: Mapping[str, bool], cluster_of: Mapping[str, str]
) -> dict[str, int]:
    """Return for each cluster how many more of its questions the second run answers correctly."""
    gains: dict[str, int] = {}
    for key, right in first.items():
        name = cluster_of[key]
        gains[name] = gains.get(name, 0) + int(second[key]) - int(right)
    return gains
