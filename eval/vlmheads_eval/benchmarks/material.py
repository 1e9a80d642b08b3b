"""What a model is asked for a benchmark: its questions as the samples of a run."""

import random
from pathlib import Path

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.benchmarks.files import digests
from vlmheads_eval.benchmarks.record import Questions, Source
from vlmheads_eval.benchmarks.registry import ASKED
from vlmheads_eval.data import Material, Sample

# Its first questions of a visual-supplement set are asked without an image.
TEXT_TOO = frozenset(("hallusionbench",))


def benchmark_material(
    name: str,
    path: Path,
    *,
    workspace: Path,
    images: Path | None,
    prompt: str | None,
    num: int | None,
    seed: int,
) -> Material:
    """Return a benchmark's questions as samples; images inside of files are unpacked.

    Args:
        name: of the benchmark.
        path: its data; see the benchmark.
        workspace: where to unpack images.
        images: the folder of the images, if they are elsewhere.
        prompt: a template with {question} in it.
        num: how many clusters (images, sets, objects, rows) to draw with the seed; all by default.
        seed: for the draw.
    """
    questions = ASKED[name](Source(path, images, workspace / "images"))
    if prompt is not None and name != "openchair" and "{question}" not in prompt:
        raise VlmHeadsError(f"--prompt {prompt!r}", "a template with {question} in it")
    chosen = _drawn(questions, num, seed)
    samples = []
    for item in questions.items:
        if item.cluster not in chosen:
            continue
        if item.image is None and name not in TEXT_TOO:
            raise VlmHeadsError(
                f"{path}: no image of question {item.key}", "an image each", "pass --images"
            )
        text = (prompt or "{question}").replace("{question}", item.question)
        record = {"question_id": item.key}
        shown = item.image is not None
        samples.append(Sample(item.key, item.image or Path(), text, record, "answer", shown))
    found = digests(questions.files)
    return Material(tuple(samples), (path,), {Path(name).name: one for name, one in found.items()})


def _drawn(questions: Questions, num: int | None, seed: int) -> set[str]:
    clusters = list(dict.fromkeys(item.cluster for item in questions.items))
    if num is None:
        return set(clusters)
    if num > len(clusters):
        raise VlmHeadsError(f"--num {num}", f"at most {len(clusters)}, which the data have")
    return set(random.Random(seed).sample(clusters, num))
