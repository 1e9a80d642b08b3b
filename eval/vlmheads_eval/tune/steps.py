"""The steps of a search: time, learn, try every candidate, select, time the last ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.images import read_image
from vlmheads.plugin import Plugin
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.compare.runs import RunScores
from vlmheads_eval.data import Sample
from vlmheads_eval.predict.model import Generator
from vlmheads_eval.tune.candidates import Candidate
from vlmheads_eval.tune.captioning import PLAIN, Captioning
from vlmheads_eval.tune.encoded import reuses
from vlmheads_eval.tune.fit import misfit
from vlmheads_eval.tune.halving import Result, Standing, halve
from vlmheads_eval.tune.needs import TrainingData, learn_needs
from vlmheads_eval.tune.parts import CONFIRM, LEARN, SELECT, Parts
from vlmheads_eval.tune.plan import Plan
from vlmheads_eval.tune.settings import Settings
from vlmheads_eval.tune.speed import speed_ratios
from vlmheads_eval.tune.standings import standing

TRIAL_TOKENS = 4
TIMED = 8  # Images of a turn, at most.

Say = Callable[[str], None]


def time_caption(captioner: Any, parts: Parts, settings: Settings) -> float:
    """Return the seconds per plain caption, of a batch of images to learn from."""
    samples = readable(parts.samples[LEARN], settings.batch_size)
    answer = Generator(captioner, settings.max_new_tokens)
    images = [read_image(sample.image) for sample in samples]
    clock = time.monotonic()
    answer(images, [sample.prompt for sample in samples])
    return (time.monotonic() - clock) / len(images)


def readable(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return the first samples whose images can be read; the others fail by name when captioned.

    Raises:
        VlmHeadsError: not a single one.
    """
    found: list[Sample] = []
    for sample in samples:
        if len(found) == count:
            break
        try:
            read_image(sample.image)
        except VlmHeadsError:
            continue
        found.append(sample)
    if not found:
        raise VlmHeadsError(f"{len(samples)} images that cannot be read", "images")
    return found


def learn_all(
    captioning: Captioning, plan: Plan, needs: Sequence[str], settings: Settings, tell: Say
) -> dict[str, str]:
    """Learn what is needed, on the first process; return what failed, with the reason."""
    if not needs:
        return {}
    runs = captioning.caption(LEARN, (0, plan.images[LEARN]), PLAIN, ())
    job, out, truth = captioning.processes, settings.out, captioning.parts.truth
    samples = captioning.parts.samples[LEARN][: plan.images[LEARN]]
    training = TrainingData(
        captioning.encoder.captioner,
        samples,
        captioning.texts(runs),
        GroundTruth({one.key: truth.objects[one.key] for one in samples}, truth.files),
        captioning.variant,
        settings.batch_size,
        settings.max_new_tokens,
        settings.seed,
        {
            "model": settings.model,
            "data": settings.data,
            "data_digest": captioning.parts.digest,
            "part": LEARN,
            "prompt": settings.prompt,
        },
    )
    if job.process_index == 0:
        learn_needs(needs, out, training, tell)
    job.wait_for_everyone()
    return learn_needs(needs, out, training, tell)  # By now nothing is left to learn.


def check_fit(captioning: Captioning, plan: Plan, seed: int) -> str:
    """Caption the images to select on, and return why they do not fit their annotations."""
    texts = captioning.texts(captioning.caption(SELECT, bounds_of(plan), PLAIN, ()))
    read = captioning.variant.read
    named = {key: frozenset(one.node for one in read(text).mentions) for key, text in texts.items()}
    return misfit(named, captioning.parts.truth.objects, seed)


def bounds_of(plan: Plan) -> list[int]:
    """Return the numbers of images to select on after each round, from 0 on."""
    return [0, *dict.fromkeys(one.images for one in plan.rounds)]


def try_all(
    captioning: Captioning,
    found: Sequence[Candidate],
    failed: Mapping[str, str],
    settings: Settings,
) -> tuple[dict[str, Candidate], dict[str, str], frozenset[str]]:
    """Generate a few tokens under every candidate.

    A plugin may be anybody's, and one that fails must not end a search of hours.

    Returns:
        The candidates that run, why others do not, and the settings that leave the vision encoder
        alone.
    """
    encoder = captioning.encoder
    samples = readable(captioning.parts.samples[LEARN], 1)
    pictures = [encoder.read(sample.image) for sample in samples]
    prepared = encoder.prepare(pictures, [sample.prompt for sample in samples])
    good, refused, reusing = {}, dict[str, str](), set[str]()
    if reuses(encoder.captioner, prepared, (), TRIAL_TOKENS):
        reusing.add(PLAIN)
    for one in found:
        lacking = [f"{need}: {failed[need]}" for need in one.needs if need in failed]
        if lacking:
            refused[one.name] = f"needs {'; '.join(lacking)}"
            continue
        try:
            plugins = one.make(settings.out)
            if reuses(encoder.captioner, prepared, plugins, TRIAL_TOKENS):
                reusing.add(one.name)
        except Exception as error:
            kind = "" if isinstance(error, VlmHeadsError) else f"{type(error).__name__}: "
            refused[one.name] = kind + " ".join(str(error).split())
            continue
        good[one.name] = one
    encoder.forget()
    return good, refused, frozenset(reusing)


def time_finalists(
    captioning: Captioning, made: Mapping[str, tuple[Plugin, ...]]
) -> dict[str, float]:
    """Time a batch of readable images that confirm under the finalists."""
    if not made:
        return {}
    count = min(captioning.batch_size, TIMED)
    samples = readable(captioning.parts.samples[CONFIRM], count)
    images = [read_image(sample.image) for sample in samples]
    captioner, limit = captioning.encoder.captioner, captioning.max_new_tokens
    return speed_ratios(captioner, images, samples[0].prompt, made, limit)


def select(
    captioning: Captioning,
    plan: Plan,
    candidates: Mapping[str, Candidate],
    settings: Settings,
    tell: Say,
) -> tuple[list[str], dict[str, Result]]:
    """Halve the candidates on the images to select on."""
    bounds = bounds_of(plan)

    def scores(name: str, images: int, plugins: tuple[Plugin, ...]) -> RunScores:
        upto = [bound for bound in bounds if bound <= images]
        return captioning.scores(SELECT, upto, name, plugins)

    def score(names: Sequence[str], images: int) -> dict[str, Standing]:
        plain = scores(PLAIN, images, ())
        found = {}
        for name in names:
            method = scores(name, images, candidates[name].make(settings.out))
            found[name] = standing(plain, method, settings.aim)
        return found

    return halve(list(candidates), plan.rounds, score, tell)
