"""What a model is held to, one function a promise, and a row of the report for each."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.runtime.attachment import ATTACHED
from vlmheads.runtime.compat import attention_implementation
from vlmheads.verify.probes import (
    KINDS,
    MLP,
    OPTIONAL,
    STREAMS,
    STRENGTH,
    AheadProbe,
    HeadProbe,
    RowProbe,
    StreamProbe,
    UnembedProbe,
)
from vlmheads.verify.subject import ROWS, Subject, gap

PASS, FAIL, INFO = "PASS", "FAIL", "INFO"
# How far logits may be off (see `gap`) where the same is computed in another order: at least this,
# and NOISE times what left padding alone moves rows of the plain model. In half precision a deep
# model's own rounding is that large; float32 is the sharper check.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2e-2}
NOISE = 3
REPEATS = 3


@dataclass(frozen=True)
class Finding:
    """One row of the report.

    Args:
        name: what was checked.
        state: "PASS", "FAIL", or "INFO" where there is a number but no verdict.
        detail: the numbers, or what is wrong, in one line.
    """

    name: str
    state: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        """Return the fields as plain values."""
        return asdict(self)


class _BrokenError(Exception):
    """A promise that is not kept; the text is the row's detail."""


@dataclass(eq=False)
class _Case:
    """A subject with what is known of its plain runs.

    Args:
        subject: the model and its inputs.
        tolerance: how far logits may be off.
        repeats: whether two plain runs are bit-identical.
        pads: whether a plain padded batch gives rows what they get alone.
    """

    subject: Subject
    tolerance: float
    repeats: bool
    pads: bool

    def same(self, one: Tensor, name: str, what: str) -> None:
        """Raise unless logits are the plain ones, bit for bit where the model repeats itself."""
        plain = self.subject.plain(name)
        if torch.equal(one, plain):
            return
        off = gap(one, plain)
        if self.repeats or off > self.tolerance:
            raise _BrokenError(f"{what} {name} differ by {off:.2g}")

    def near(self, one: Tensor, other: Tensor, what: str) -> float:
        """Raise unless logits agree within the tolerance; return how far they are off."""
        off = gap(one, other)
        if off > self.tolerance:
            raise _BrokenError(f"{what}: off by {off:.2g}, at most {self.tolerance:.2g} allowed")
        return off


def examine_subject(subject: Subject) -> Iterator[Finding]:
    """Yield the rows of the report as they are found.

    Args:
        subject: a model that generates; what its first plain run raises is not caught.
    """
    first = subject.plain(ROWS[0])
    again = subject.run(ROWS[0])
    repeats = torch.equal(first, again)
    least = TOLERANCE[subject.model.dtype]
    padded = max(
        gap(subject.plain("batch")[:, [index]], subject.plain(row))
        for index, row in enumerate(ROWS)
    )
    pads = padded <= 2 * NOISE * least
    case = _Case(subject, max(least, NOISE * padded) if pads else least, repeats, pads)
    runs = "two runs are bit-identical"
    if not repeats:
        runs = f"two runs differ by {gap(first, again):.1g}"
    yield Finding("plain model", INFO, f"{runs}; padding moves rows by {padded:.1g}")
    if not pads:
        yield Finding("plain batch", INFO, "padding changes what the plain model says: not judged")
    if not any(mlp is not None for mlp in subject.anatomy.mlps):
        yield Finding(MLP, INFO, "its layers have no module for the MLP: not judged")
    for name, check in _checks(case):
        yield _judged(name, check, case)
    yield from _overhead(subject)
    yield from _memory(subject)


def _checks(case: _Case) -> Iterator[tuple[str, Callable[[_Case], str]]]:
    """Yield every promise in order."""
    # A decoder may keep its MLP in its layers without a module of its own, as OPT's does.
    mlps = any(mlp is not None for mlp in case.subject.anatomy.mlps)
    kinds = [kind for kind in KINDS if mlps or kind != MLP]
    for kind in kinds:
        yield f"neutral: {kind}", partial(_neutral, kind)
    yield "rows by hand", _rows
    yield "head shapes", _heads
    yield "unembedding", _unembed
    yield "text-only view", _text_only
    yield "tokens ahead", _ahead
    for kind in kinds:
        yield f"acts: {kind}", partial(_acts, kind)
    for kind in kinds if case.pads else ():
        yield f"batch: {kind}", partial(_batch, kind)
    yield "after detach", _detached


def _judged(name: str, check: Callable[[_Case], str], case: _Case) -> Finding:
    """Run one check; whatever it raises is the answer."""
    try:
        return Finding(name, PASS, check(case))
    except _BrokenError as error:
        return Finding(name, FAIL, str(error))
    except VlmHeadsError as error:
        state = INFO if name.partition(": ")[2] in OPTIONAL else FAIL
        return Finding(name, state, f"refused: {' '.join(str(error).split())}")
    except Exception as error:  # a crash is a row of the report, not the end of it
        return Finding(name, FAIL, f"crash: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """Return the type of an error and its first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _neutral(kind: str, case: _Case) -> str:
    """Check that a plugin that does nothing changes no bit; a stream makes another batch."""
    if kind in STREAMS:
        after = case.subject.run(ROWS[0], KINDS[kind](0.0))
        off = case.near(after, case.subject.plain(ROWS[0]), "logits of the main stream")
        return f"within {off:.1g} of the plain model, in a batch of two streams"
    for name in (ROWS[0], "batch"):
        case.same(case.subject.run(name, KINDS[kind](0.0)), name, "logits of")
    return "alone and in a padded batch " + ("bit-identical" if case.repeats else "equal")


def _rows(case: _Case) -> str:
    """Check that attention rows by hand are those of the model's own function."""
    probe = RowProbe(by_hand=True)
    after = case.subject.run(ROWS[0], probe)
    off = case.near(after, case.subject.plain(ROWS[0]), "against the model's own attention")
    return f"within {off:.1g} of the model's own attention, {len(probe.shapes)} layers"


def _heads(case: _Case) -> str:
    """Check that heads are as many and as large as at the attention interface."""
    heads, rows = HeadProbe(), RowProbe(by_hand=True)
    case.subject.run(ROWS[0], heads, rows)
    geometry = case.subject.anatomy.geometry
    if heads.shapes != rows.shapes:
        wrong = [
            f"layer {layer}: {heads.shapes.get(layer)}, at the interface {rows.shapes.get(layer)}"
            for layer in sorted({*heads.shapes, *rows.shapes})
            if heads.shapes.get(layer) != rows.shapes.get(layer)
        ]
        raise _BrokenError("; ".join(wrong[:3]))
    most = max(count for count, _ in heads.shapes.values())
    if geometry.heads != most:
        raise _BrokenError(f"geometry says {geometry.heads} heads, tensors have {most}")
    kinds = sorted(set(heads.shapes.values()))
    shown = ", ".join(f"{count} heads of {size}" for count, size in kinds)
    return f"{len(heads.shapes)} of {geometry.layers} layers with {shown}"


def _unembed(case: _Case) -> str:
    """Check that the last layer's output is unembedded to the model's own logits."""
    probe = UnembedProbe()
    logits = case.subject.run(ROWS[0], probe)
    if len(probe.steps) != len(logits):
        raise _BrokenError(f"the last layer was seen in {len(probe.steps)} of {len(logits)} steps")
    off = case.near(torch.stack(probe.steps), logits, "against the model's own logits")
    return f"within {off:.1g} of the model's own logits"


def _text_only(case: _Case) -> str:
    """Check that the text-only pass and stream are a plain generation from the text alone."""
    worst = 0.0
    for name in ROWS:
        probe = StreamProbe()
        case.subject.run(name, probe)
        text, said = case.subject.text(name), case.subject.said(name)
        truth = case.subject.follow(text, said, images=False)
        seen = torch.stack(probe.steps)
        worst = max(
            worst,
            case.near(probe.prompt[0][None], truth[:1], f"text_only_forward of {name}"),
            case.near(seen[:1], truth[:1], f"text-only stream of {name}, first token"),
            case.near(seen, truth, f"text-only stream of {name}"),
        )
    return f"pass and stream within {worst:.1g} of a plain text-only prompt"


def _ahead(case: _Case) -> str:
    """Check that tokens generated ahead are those of the plain model, and leave no trace."""
    recorder = RowProbe(by_hand=True)
    probe = AheadProbe(recorder=recorder)
    for name in (ROWS[0], "batch"):
        case.same(case.subject.run(name, probe), name, "after a probe, logits of")
    first = probe.found[0].logits[:, 0]
    off = case.near(first[None], case.subject.plain(ROWS[0])[:1], "logits of the first token ahead")
    return f"no trace; watched in {len(recorder.shapes)} layers, first logits within {off:.1g}"


def _acts(kind: str, case: _Case) -> str:
    """Check that a strong edit changes the logits, and leaves numbers."""
    after = case.subject.run(ROWS[0], KINDS[kind](STRENGTH[kind]))
    off = gap(after, case.subject.plain(ROWS[0]))
    if bool(after.isnan().any()):
        raise _BrokenError("logits that are not numbers")
    if off <= 0.5 * case.tolerance:
        raise _BrokenError(f"a strong edit moves the logits by {off:.1g} only")
    return f"a strong edit moves the logits by {off:.2g}"


def _batch(kind: str, case: _Case) -> str:
    """Check that a left-padded batch gives rows what they get alone, under a strong edit."""
    together = case.subject.run("batch", KINDS[kind](STRENGTH[kind]))
    worst = 0.0
    for index, name in enumerate(ROWS):
        alone = case.subject.run(name, KINDS[kind](STRENGTH[kind]))
        off = case.near(together[:, [index]], alone, f"{name} of a padded batch against alone")
        worst = max(worst, off)
    return f"padded rows within {worst:.1g} of the same rows alone"


def _detached(case: _Case) -> str:
    """Check that the model is what it was before."""
    for name in (ROWS[0], "batch"):
        case.same(case.subject.run(name), name, "logits of")
    if ATTACHED in vars(case.subject.model):
        raise _BrokenError("an attachment is left on the model")
    now = attention_implementation(case.subject.anatomy.decoder)
    if now.startswith("vlmheads"):
        raise _BrokenError(f"the attention implementation is still {now!r}")
    return "bit-identical" if case.repeats else "equal"


def _loads() -> Iterator[tuple[str, Any]]:
    """Yield a plugin of each kind that costs what the kind costs."""
    for kind, make in KINDS.items():
        yield kind, RowProbe(by_hand=True) if kind == "attention rows" else make(STRENGTH[kind])


def _overhead(subject: Subject) -> Iterator[Finding]:
    """Yield how long generation takes under each kind of plugin, over plain generation."""
    best: dict[str, float] = {}
    failed: dict[str, str] = {}
    for _ in range(REPEATS):
        best["plain"] = min(best.get("plain", torch.inf), subject.seconds())
        for kind, plugin in _loads():
            try:
                best[kind] = min(best.get(kind, torch.inf), subject.seconds(plugin))
            except Exception as error:  # said in full by a check above
                failed[kind] = type(error).__name__
    for kind, _ in _loads():
        detail = failed.get(kind) or f"{best[kind] / best['plain']:.2f} x plain generate"
        if kind == "heads":
            detail += f" ({best['plain']:.3f} s for {subject.tokens} tokens, best of {REPEATS})"
        yield Finding(f"overhead: {kind}", INFO, detail)


def _memory(subject: Subject) -> Iterator[Finding]:
    """Yield peak memory: on a GPU plain and under each kind, else of the process so far."""
    if subject.model.device.type == "cuda":
        plain = _peak(subject)
        yield Finding("memory: plain", INFO, f"{plain / 2**20:.0f} MiB at its peak")
        for kind, plugin in _loads():
            try:
                more = f"{_peak(subject, plugin) / plain:.3f} x plain"
            except Exception as error:
                more = type(error).__name__
            yield Finding(f"memory: {kind}", INFO, more)
        return
    try:
        import resource
    except ImportError:  # not a Unix
        return
    unit = 1 if sys.platform == "darwin" else 2**10
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    yield Finding("memory: process", INFO, f"{used / 2**20:.0f} MiB at its peak, all checks")


def _peak(subject: Subject, *plugins: Any) -> float:
    """Return the peak of allocated bytes on a GPU during one generation."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(subject.model.device)
    subject.run(ROWS[0], *plugins)
    return float(torch.cuda.max_memory_allocated(subject.model.device))
