"""Methods compared on scenes of the test bench: the evaluator's own steps, on a model at hand."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.caption import Captioner
from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads_demo.methods import spec
from vlmheads_demo.shelf import Model

MOST_SCENES = 500
MOST_RUNS = 4
LONGEST = 512
BATCH = 8
SPLITS = ("test", "counterfactual")


@dataclass(frozen=True, eq=False)
class Study:
    """What is evaluated.

    Args:
        model: on which.
        methods: each compared with plain.
        split: of the test bench.
        scenes: how many of them.
        seed: of the scenes, and of the draws of the intervals.
        max_new_tokens: where a caption is cut off.

    Raises:
        VlmHeadsError: a split that there is not, or a number out of its range.
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
        if len(self.methods) >= MOST_RUNS:
            raise VlmHeadsError(f"{len(self.methods)} methods", f"at most {MOST_RUNS - 1}")
        names = self.names
        if len(set(names)) != len(names):
            raise VlmHeadsError(f"the same method twice in {', '.join(names)}", "each once")
        for name, low, high in (
            ("scenes", 2, MOST_SCENES),
            ("seed", 0, 99_999),
            ("max_new_tokens", 1, LONGEST),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
                raise VlmHeadsError(f"{name}={str(value)[:40]}", "a whole number")
            if not low <= value <= high:
                raise VlmHeadsError(f"{name}={value:g}", f"a number from {low} to {high}")
            object.__setattr__(self, name, int(value))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the runs, the baseline first."""
        return tuple(spec(plugins) for plugins in ((), *self.methods))


class Stopped(Exception):  # noqa: N818 - it is no error
    """The visitor does not want the rest."""


def evaluate(
    study: Study,
    *,
    running: threading.Lock,
    stop: threading.Event,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, Any]:
    """Predict, score and compare, as `vlmheads eval` does, and return the comparison.

    The figures are those of `vlmheads eval predict --data testbed:SPLIT --num N` for each run and
    `vlmheads eval compare` of the runs, with the same options (batches of 8, variant "pattern").

    Args:
        study: what to do.
        running: held for a batch at a time, so that visitors wait for one batch at most.
        stop: ends the study after its present batch when it is set.
        progress: is told the run's name, and how many of all captions are written.

    Raises:
        Stopped: it was stopped.
        VlmHeadsError: what the evaluator or `attach` refuses.
    """
    from vlmheads_eval.compare import compared
    from vlmheads_eval.data import load_material

    with tempfile.TemporaryDirectory(prefix="vlmheads-study-") as folder:
        place = Path(folder)
        material = load_material(
            (f"testbed:{study.split}",),
            "caption",
            workspace=place / "data",
            num=study.scenes,
            seed=study.seed,
        )
        runs = []
        total = len(study.names) * len(material.samples)
        for number, (plugins, name) in enumerate(
            zip(((), *study.methods), study.names, strict=True)
        ):
            before = number * len(material.samples)

            def told(done: int, _: int, name: str = name, before: int = before) -> None:
                if stop.is_set():
                    raise Stopped
                progress(name, before + done, total)

            told(0, 0)
            runs.append(place / f"run-{number}")
            _predict(study, plugins, runs[-1], material.samples, running, told)
        result, _ = compared(
            runs=tuple(runs),
            ground_truth=material.ground_truth,
            names=",".join(f"run-{number}" for number in range(len(runs))),
            task="chair",
            variant="pattern",
            parser="strict",
            draws=10_000,
            seed=study.seed,
        )
    return _named(result, study.names)


def _predict(
    study: Study,
    plugins: tuple[Plugin, ...],
    run: Path,
    samples: Sequence[Any],
    running: threading.Lock,
    told: Callable[[int, int], None],
) -> None:
    from vlmheads_eval.predict.model import Generator
    from vlmheads_eval.predict.run import predict

    from vlmheads.images import read_image

    held = study.model.captioner
    generator = Generator(Captioner(held.model, held.processor, plugins), study.max_new_tokens)

    def describe(images: Sequence[Any], prompts: Sequence[str]) -> Sequence[Any]:
        with running:
            return generator(images, prompts)

    config = {"task": "caption", "samples": [sample.key for sample in samples]}
    predict(run, config, samples, describe, read=read_image, batch_size=BATCH, progress=told)


def _named(result: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Give the runs their names, which may hold commas, and leave out the files of this machine."""
    result.pop("inputs")
    text = json.dumps(result)
    for number, name in enumerate(names):
        text = text.replace(f'"run-{number}"', json.dumps(name))
    named: dict[str, Any] = json.loads(text)
    return named
