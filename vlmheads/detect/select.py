"""Choosing heads: one question, what to switch off for an objective, and six ways to answer it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vlmheads.detect.decomposition import contextual_decomposition
from vlmheads.detect.groups import turned
from vlmheads.detect.objectives import Answers, Objective, Trial, contrast, objective_called, trials
from vlmheads.detect.patching import path_patching
from vlmheads.detect.replay import Towards, one_by_one
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import GAIN, HeadMap
from vlmheads.model.anatomy import Anatomy
from vlmheads.model.geometry import Geometry

Method = Literal["ablation", "gradient", "path-patching", "group", "greedy", "cd-t"]
METHODS: tuple[Method, ...] = get_args(Method)
SELECTION = "selection"
# Methods that replace a head's output by one of their own, and take no factor.
_REPLACING = ("path-patching", "cd-t")


@dataclass(frozen=True, eq=False)
class Selection:
    """The heads that were chosen.

    Args:
        heads: (layer, head), in the order in which they were chosen.
        scores: what each head alone does: by how much the objective rises without it; by "group",
            how far the marked words turn without it, in radians. Its measure is "attribution" by
            the objective "contrast", so that plugins take it as such a map, else "selection".
        method: how they were chosen.
        curve: after each round, the objective with all heads so far changed, by "greedy", or how
            far the group turns the words, by "group"; else empty.
        plain: the objective of the plain model, mean of the images.
        passes: rows that the decoder was run on.
        seconds: how long it took.
    """

    heads: tuple[tuple[int, int], ...]
    scores: HeadMap
    method: Method
    plain: float
    passes: int
    seconds: float
    curve: tuple[float, ...] = field(default=())

    def gains(self, factor: float = 0.0) -> HeadMap:
        """Return factors for the plugin `gains`: `factor` on the chosen heads, 1 on all others."""
        geometry = self.scores.geometry
        values = torch.ones(1, geometry.layers, geometry.heads)
        for layer, head in self.heads:
            values[0, layer, head] = factor
        return HeadMap(values, geometry, GAIN, {"from": f"selection by {self.method}"})


def select(
    model: Any,
    data: Answers | Iterable[Answers],
    objective: str | Objective = "contrast",
    *,
    method: Method = "gradient",
    count: int | None = None,
    factor: float | None = None,
    towards: Towards | None = None,
    step: int | None = None,
    rank: int | None = None,
    rows: int = 64,
    provenance: Mapping[str, Any] | None = None,
) -> Selection:
    """Choose the heads whose removal raises an objective most.

    * "ablation": every head is changed in turn, and the objective compared with the plain model's;
      "gradient" estimates that to first order from one backward pass (`vlmheads.detect.attribution`
      is the same measurement with both kinds of words apart).
    * "path-patching": only what a head writes straight to the answer counts (`path_patching`).
    * "cd-t": a head's part of the answer under frozen attention (`contextual_decomposition`).
    * "group": the set grows by the head with which it turns the representation of the marked words
      most (`vlmheads.detect.groups.turned`). Source: Sahara and Ships, arXiv 2410.13708.
    * "greedy": the set grows by the `step` heads with which the objective rises most, each round
      measured anew with those chosen before, and ends early where none raises it. Source:
      HeadHunter, arXiv 2506.10978; with `towards="identity"` and a factor between 0 and 1 a head's
      attention map is interpolated to the identity, A' = factor · A + (1 - factor) · I, as SoftPAG
      does there. Deviations: the source selects by the score of generated images.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        data: answers with marked words, in batches.
        objective: "contrast" (grounded less hallucinated words), "grounded", "hallucinated" (its
            negative), or a function; see `Objective`.
        method: see above.
        count: how many heads to choose, at most; by default the share that AD-HH's 20 of 1,024 are,
            at least 3.
        factor: what a head is multiplied by; by default 0.
        towards: what takes the rest's place: "zero", or "identity"; by default "zero".
        step: greedy: heads chosen per round; by default 1.
        rank: group: singular vectors that are compared; by default 8.
        rows: rows of a batch of the decoder.
        provenance: plain values to keep with the map.

    Raises:
        VlmHeadsError: an unknown method or objective, options that the method does not take, more
            heads than there are, or answers without the words that the objective asks for.
    """
    check_method(method, factor=factor, towards=towards, step=step, rank=rank)
    factor, towards = 0.0 if factor is None else factor, towards or "zero"
    aim = objective_called(objective)
    started = time.perf_counter()
    made = trials(model, data, aim)
    anatomy = made[0].replay.anatomy
    geometry = anatomy.geometry
    chosen = _count(count, geometry)
    with _counted(anatomy) as passes:
        how = _How(factor, towards, rows)
        heads: tuple[tuple[int, int], ...] | None
        curve: tuple[float, ...] = ()
        if method == "group":
            heads, values, curve = _group(made, aim, chosen, how, 8 if rank is None else rank)
        elif method == "greedy":
            heads, values, curve = _greedy(made, chosen, how, 1 if step is None else step)
        else:
            heads, values = None, _scored(made, method, how)
        with torch.no_grad():
            plain = torch.cat([trial.plain() for trial in made]).nanmean()
    values = values.cpu().float()
    values = values[~values.flatten(1).isnan().any(dim=1)]
    values[:, list(geometry.bare_layers)] = torch.nan
    about = {"method": method, "factor": factor, "towards": towards} | dict(provenance or {})
    as_attribution = aim is contrast and method != "group" and towards == "zero"
    measure = "attribution" if as_attribution else SELECTION
    scores = HeadMap(values, geometry, measure, about)
    if heads is None:
        heads = tuple((layer, head) for layer, head, _ in scores.top(chosen))
    seconds = time.perf_counter() - started
    return Selection(heads, scores, method, float(plain), sum(passes), seconds, curve)


@dataclass(frozen=True)
class _How:
    """How a head is changed, and how many rows are run at once."""

    factor: float
    towards: Towards
    rows: int


def check_method(method: str, **options: Any) -> None:
    """Refuse a method that there is not, and options that it does not take.

    Raises:
        VlmHeadsError: either.
    """
    if method not in METHODS:
        raise VlmHeadsError(f"method={method!r}", f"one of {', '.join(METHODS)}")
    taken = {"factor", "towards"} if method not in _REPLACING else set[str]()
    taken |= {"greedy": {"step"}, "group": {"rank"}}.get(method, set())
    for name, value in options.items():
        if value is not None and name not in taken:
            raise VlmHeadsError(
                f"{name}={value!r} with method={method!r}",
                f"{', '.join(sorted(taken)) or 'no such option'}",
            )
        if name in ("step", "rank") and value is not None and value < 1:
            raise VlmHeadsError(f"{name}={value}", "at least 1")


def _count(count: int | None, geometry: Geometry) -> int:
    total = len(geometry.attention_layers) * geometry.heads
    if count is None:
        return min(total, max(3, round(total * 20 / 1024)))
    if not 1 <= count <= total:
        raise VlmHeadsError(f"count={count}", f"a number from 1 to {total} heads")
    return count


@contextmanager
def _counted(anatomy: Anatomy) -> Iterator[list[int]]:
    """Count the rows that the decoder is run on, into a list of its passes."""
    passes: list[int] = []
    hook = anatomy.decoder.register_forward_hook(
        lambda _, __, output: passes.append(len(output.last_hidden_state))
    )
    with hook:
        yield passes


def _scored(made: Sequence[Trial], method: Method, how: _How) -> Tensor:
    """Effects of each head alone [N, L, H], of all images."""
    if method == "cd-t":
        return torch.cat(contextual_decomposition(made, how.rows))
    if method == "path-patching":
        return torch.cat([path_patching(trial, how.rows) for trial in made])
    if method == "gradient":
        return torch.cat([_gradient(trial, how) for trial in made])
    return _alone(made, how)


@torch.no_grad()
def _alone(made: Sequence[Trial], how: _How) -> Tensor:
    """Change each head in turn; [N, L, H]."""
    geometry = made[0].replay.anatomy.geometry
    every, sets = one_by_one(geometry, how.factor)
    change = [trial.under(sets, how.rows, how.towards) - trial.plain() for trial in made]
    return _laid_out(torch.cat(change, dim=1), every, geometry)


def _laid_out(values: Tensor, heads: Sequence[tuple[int, int]], geometry: Geometry) -> Tensor:
    """Lay values [K, N] of K heads out as [N, L, H]; 0 for all others."""
    made = torch.zeros(values.shape[1], geometry.layers, geometry.heads)
    for value, (layer, head) in zip(values.cpu(), heads, strict=True):
        made[:, layer, head] = value
    return made


@torch.enable_grad()
def _gradient(trial: Trial, how: _How) -> Tensor:
    """Differentiate the objective by the gains of all heads; [N, L, H]."""
    geometry, count = trial.replay.anatomy.geometry, trial.replay.rows
    shape = (count, geometry.layers, geometry.heads)
    gains = torch.ones(shape, device=trial.targets.device, requires_grad=True)
    found = trial.replay.log_probabilities(trial.targets, gains, how.towards)
    values = trial.judge(found[None])[0]
    known = values.isfinite()
    if not bool(known.any()):
        return torch.full(shape, torch.nan)
    (slope,) = torch.autograd.grad(values[known].sum(), gains)
    effects: Tensor = (how.factor - 1) * slope
    return effects.masked_fill(~known[:, None, None], torch.nan)


def _with(base: Tensor, every: Sequence[tuple[int, int]], factor: float) -> Tensor:
    """Return sets [K, L, H] of gains: a base with one more head of each in turn."""
    sets = base.repeat(len(every), 1, 1)
    for index, (layer, head) in enumerate(every):
        sets[index, layer, head] = factor
    return sets


@torch.no_grad()
def _greedy(
    made: Sequence[Trial], count: int, how: _How, step: int
) -> tuple[tuple[tuple[int, int], ...], Tensor, tuple[float, ...]]:
    """Grow a set by the heads that raise the objective most, measured with those before."""
    geometry = made[0].replay.anatomy.geometry
    left, base = one_by_one(geometry, 1.0)
    base = base[:1]
    plain = torch.cat([trial.plain() for trial in made])
    best = float(plain.nanmean())
    first = torch.zeros(0)
    chosen: list[tuple[int, int]] = []
    curve: list[float] = []
    while len(chosen) < count:
        sets = _with(base, left, how.factor)
        found = torch.cat([trial.under(sets, how.rows, how.towards) for trial in made], dim=1)
        if not chosen:
            first = _laid_out(found - plain, left, geometry)
        means = found.nanmean(dim=1)
        order = means.argsort(descending=True, stable=True)[: min(step, count - len(chosen))]
        some = [left[index] for index in order.tolist() if float(means[index]) > best]
        if not some:
            break
        for layer, head in some:
            base[:, layer, head] = how.factor
        chosen += some
        left = [head for head in left if head not in some]
        together = torch.cat([trial.under(base, how.rows, how.towards) for trial in made], dim=1)
        best = float(together.nanmean())
        curve.append(best)
    return tuple(chosen), first, tuple(curve)


@torch.no_grad()
def _group(
    made: Sequence[Trial], objective: Objective, count: int, how: _How, rank: int
) -> tuple[tuple[tuple[int, int], ...], Tensor, tuple[float, ...]]:
    """Grow a set by the head with which it turns the marked words most."""
    geometry = made[0].replay.anatomy.geometry
    left, base = one_by_one(geometry, 1.0)
    base = base[:1]
    chosen: list[tuple[int, int]] = []
    curve: list[float] = []
    first = torch.zeros(0)
    while len(chosen) < count:
        sets = _with(base, left, how.factor)
        scores = turned(made, objective, sets, rank=rank, rows=how.rows, towards=how.towards)
        if not chosen:
            first = _laid_out(scores[:, None], left, geometry)
        index = int(scores.argmax())
        chosen.append(left.pop(index))
        base[:, chosen[-1][0], chosen[-1][1]] = how.factor
        curve.append(float(scores[index]))
    return tuple(chosen), first, tuple(curve)
