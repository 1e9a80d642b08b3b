"""Methods evaluated on scenes of the test bench, with the evaluator's own steps."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.caption import Captioner
from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads_demo.services.images import SPLITS
from vlmheads_demo.services.methods import parse_methods, spec
from vlmheads_demo.state import AppState, Model

MAX_SCENES = 500
MAX_RUNS = 4
MAX_NEW_TOKENS = 512
BATCH_SIZE = 8


@dataclass(frozen=True, eq=False)
class EvaluationRequest:
    """Methods to compare with plain captions.

    Args:
        model: the model.
        methods: the plugins of each run after the plain one.
        split: a split of the test bench.
        scenes: the number of scenes.
        seed: the seed of the scenes, and of the bootstrap draws.
        max_new_tokens: the limit on the length of a caption.

    Raises:
        VlmHeadsError: an unknown split, the same method twice, or a number out of its range.
    """

    model: Model
    methods: tuple[tuple[Plugin, ...], ...]
    split: str = "test"
    scenes: int = 40
    seed: int = 0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise VlmHeadsError(f"split {str(self.split)[:40]!r}", " or ".join(SPLITS))
        if len(self.methods) >= MAX_RUNS:
            raise VlmHeadsError(f"{len(self.methods)} methods", f"at most {MAX_RUNS - 1}")
        names = self.names
        if len(set(names)) != len(names):
            raise VlmHeadsError(f"the same method twice in {', '.join(names)}", "different methods")
        for name, low, high in (
            ("scenes", 2, MAX_SCENES),
            ("seed", 0, 99_999),
            ("max_new_tokens", 1, MAX_NEW_TOKENS),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
                raise VlmHeadsError(f"{name}={str(value)[:40]}", "a whole number")
            if not low <= value <= high:
                raise VlmHeadsError(f"{name}={value:g}", f"a number from {low} to {high}")
            object.__setattr__(self, name, int(value))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the runs, plain first."""
        return tuple(spec(plugins) for plugins in ((), *self.methods))


class StoppedError(VlmHeadsError):
    """The visitor stopped the evaluation."""


Report = Callable[[str, int, int], None]


def evaluate_for(
    state: AppState,
    visitor: str,
    *,
    methods: Sequence[Sequence[Mapping[str, Any]]],
    model: str = "",
    split: str = "test",
    scenes: int = 40,
    seed: int = 0,
    max_new_tokens: int = 64,
    progress: Report = lambda name, done, total: None,
) -> dict[str, Any]:
    """Check what a visitor sent and evaluate it, as a job that the visitor can stop.

    Args:
        state: what all requests share.
        visitor: who asks.
        methods: the plugins of each run after the plain one.
        model: its name; "" for the default.
        split: see `EvaluationRequest`, as for what follows.
        scenes: the number of scenes.
        seed: the seed.
        max_new_tokens: the limit on the length of a caption.
        progress: see `evaluate`.

    Raises:
        StoppedError: the visitor stopped it.
        VlmHeadsError: an argument that is not valid, or what the evaluator or `attach` refuses.
    """
    request = EvaluationRequest(
        state.models.get(model or state.models.default),
        parse_methods(methods),
        split,
        scenes,
        seed,
        max_new_tokens,
    )
    with state.jobs.start(visitor) as stop:
        return evaluate(request, run_lock=state.models.run_lock, stop=stop, progress=progress)


def evaluate(
    request: EvaluationRequest,
    *,
    run_lock: threading.Lock,
    stop: threading.Event,
    progress: Report = lambda name, done, total: None,
) -> dict[str, Any]:
    """Predict, score and compare, as `vlmheads eval` does, and return the comparison.

    The figures are those of `vlmheads eval predict --data testbed:SPLIT --num N` for each run and
    `vlmheads eval compare` of the runs, with the same options (batches of 8, variant "pattern").

    Args:
        request: what to do.
        run_lock: held for one batch at a time, so that other visitors wait for one batch at most.
        stop: ends the evaluation after the current batch when it is set.
        progress: called with the run's name, and the number of captions done and in total.

    Raises:
        StoppedError: `stop` was set.
        VlmHeadsError: what the evaluator or `attach` refuses.
    """
    from vlmheads_eval.compare import compared
    from vlmheads_eval.data import load_material

    with tempfile.TemporaryDirectory(prefix="vlmheads-evaluation-") as folder:
        place = Path(folder)
        material = load_material(
            (f"testbed:{request.split}",),
            "caption",
            workspace=place / "data",
            num=request.scenes,
            seed=request.seed,
        )
        runs = []
        total = len(request.names) * len(material.samples)
        for number, (plugins, name) in enumerate(
            zip(((), *request.methods), request.names, strict=True)
        ):
            before = number * len(material.samples)

            def report(done: int, _: int, name: str = name, before: int = before) -> None:
                if stop.is_set():
                    raise StoppedError("the evaluation was stopped")
                progress(name, before + done, total)

            report(0, 0)
            runs.append(place / f"run-{number}")
            _predict(request, plugins, runs[-1], material.samples, run_lock, report)
        result, _ = compared(
            runs=tuple(runs),
            ground_truth=material.ground_truth,
            names=request.names,
            task="chair",
            variant="pattern",
            parser="strict",
            draws=10_000,
            seed=request.seed,
        )
    result.pop("inputs")  # paths of this machine
    return result


def _predict(
    request: EvaluationRequest,
    plugins: tuple[Plugin, ...],
    run: Path,
    samples: Sequence[Any],
    run_lock: threading.Lock,
    report: Callable[[int, int], None],
) -> None:
    from vlmheads_eval.predict.model import Generator
    from vlmheads_eval.predict.run import predict

    from vlmheads.images import read_image

    plain = request.model.captioner
    captioner = Captioner(plain.model, plain.processor, plugins)
    generator = Generator(captioner, request.max_new_tokens)

    def describe(images: Sequence[Any], prompts: Sequence[str]) -> Sequence[Any]:
        with run_lock:
            return generator(images, prompts)

    config = {"task": "caption", "samples": [sample.key for sample in samples]}
    predict(run, config, samples, describe, read=read_image, batch_size=BATCH_SIZE, progress=report)
