"""Captions of the parts under each setting, stored as they come, and their scores."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from vlmheads.jobs.processes import Processes
from vlmheads.plugin import Plugin
from vlmheads_eval import run_folder
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.compare.runs import RunScores, score_texts
from vlmheads_eval.predict.model import Answer
from vlmheads_eval.predict.run import predict
from vlmheads_eval.records import image_key, read_captions
from vlmheads_eval.tune.encoded import Encoder, Picture, copied
from vlmheads_eval.tune.parts import Parts

PLAIN = "plain"
CONTROL = ", control "  # Between the name of a setting and the number of a control's draw.
RUNS = "runs"


@dataclass(frozen=True)
class Captioning:
    """How a search captions.

    Args:
        encoder: the model, and images that are encoded already.
        out: the folder of the search.
        parts: the images.
        config: what determines every caption of the search, besides plugins and images.
        variant: the variant of CHAIR that scores captions.
        max_new_tokens: token limit of captions.
        batch_size: captions per generation.
        processes: of the job.
        progress: called with how many captions were made.
        reusing: names of settings, the plain model included, that leave the vision encoder alone.
    """

    encoder: Encoder
    out: Path
    parts: Parts
    config: Mapping[str, Any]
    variant: Variant
    max_new_tokens: int
    batch_size: int
    processes: Processes
    progress: Callable[[int], None] = lambda number: None
    reusing: frozenset[str] = frozenset()

    def caption(
        self, part: str, bounds: Sequence[int], name: str, plugins: tuple[Plugin, ...]
    ) -> list[Path]:
        """Caption the images of a part up to the last bound, as far as it is not done.

        Args:
            part: of the images.
            bounds: from 0 on; the images between two of them are a run folder of their own.
            name: of the setting, distinct.
            plugins: of the setting.

        Returns:
            The run folders.
        """
        runs = []
        for start, stop in pairwise(bounds):
            if start == stop:
                continue
            run = self.out / RUNS / f"{part}-{start}-{stop}" / slug(name)
            self._run(run, part, start, stop, name, plugins)
            runs.append(run)
        return runs

    def scores(
        self, part: str, bounds: Sequence[int], name: str, plugins: tuple[Plugin, ...]
    ) -> RunScores:
        """Return the scores of a setting on the images of a part, captioned as far as needed."""
        runs = self.caption(part, bounds, name, plugins)
        captions = chain.from_iterable(map(read_captions, runs))
        return score_texts(name, captions, self.parts.truth, self.variant, "greedy")

    def texts(self, runs: Sequence[Path]) -> dict[str, str]:
        """Return image key -> caption of run folders."""
        captions = chain.from_iterable(map(read_captions, runs))
        return {image_key(one.image_id): one.text for one in captions}

    def _run(
        self,
        run: Path,
        part: str,
        start: int,
        stop: int,
        name: str,
        plugins: tuple[Plugin, ...],
    ) -> None:
        samples = self.parts.samples[part][start:stop]
        truth = self.parts.files[part]
        config = {
            "task": "caption",
            "ground_truth": [run_folder.relative_to_run(truth, run, self.out)],
            "plugins": [plugin.describe() for plugin in plugins],
            "control": None,
            **self.config,
            "samples": [sample.key for sample in samples],
        }

        def describe(pictures: Sequence[Picture], prompts: Sequence[str]) -> list[Answer]:
            prepared = self.encoder.prepare(pictures, prompts)
            reused = prepared.encoded if name.partition(CONTROL)[0] in self.reusing else None
            found = self.encoder.captioner.generate(
                copied(reused or prepared.inputs),
                plugins=plugins,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
            )
            self.progress(len(found))
            return [Answer(one.text, one.tokens, one.at_limit) for one in found]

        predict(
            run,
            config,
            samples,
            describe,
            read=self.encoder.read,
            batch_size=self.batch_size,
            processes=self.processes,
        )
        self.processes.wait_for_everyone()  # The first process orders the answers last.


def slug(name: str) -> str:
    """Return a folder's name for a setting; distinct settings have distinct ones."""
    plain = re.sub(r"[^A-Za-z0-9._=]+", "-", name).strip("-")[:80]
    return f"{plain}-{hashlib.sha256(json.dumps(name).encode()).hexdigest()[:6]}"
