"""Runs compared with a baseline, paired by image: captions, answers, or folders of either."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """What is compared, and how.

    Args:
        runs: run folders or files, the baseline first.
        titles: their names.
        ground_truth: the objects in the images, or questions.
        variant: of CHAIR.
        parser: of answers.
        decodings: how each run was decoded; None where its folder says it, or nothing does.
        pool: whether runs that differ only in their seed are pooled.
        draws: of the bootstrap.
        seed: of the draws.
    """

    runs: tuple[Path, ...]
    titles: Sequence[str]
    ground_truth: tuple[Path, ...]
    variant: str
    parser: str
    decodings: Sequence[str | None]
    pool: bool
    draws: int
    seed: int


def compared(
    runs: tuple[Path, ...],
    ground_truth: tuple[Path, ...],
    names: str | Sequence[str] | None,
    task: str | None,
    variant: str,
    parser: str,
    draws: int,
    seed: int,
    decoding: str | None = None,
    pool: bool = False,
) -> tuple[dict[str, Any], list[Any]]:
    """Return the comparison of runs, and the scores of runs of captions.

    Raises:
        VlmHeadsError: names or decodings that do not fit the runs, or an option that the task does
            not have.
    """
    from vlmheads.errors import VlmHeadsError
    from vlmheads_eval.run_folder import CONFIG, ground_truth_of, read_config

    titles = titles_of(runs, names, pool)
    asked = read_config(runs[0])["task"] if (runs[0] / CONFIG).is_file() else "caption"
    chosen = task or {"caption": "chair"}.get(asked, asked)
    if chosen not in TASKS:
        raise VlmHeadsError(f"a comparison of runs of the task {chosen!r}", " or ".join(TASKS))
    if chosen != "chair" and (decoding or pool):
        raise VlmHeadsError(
            f"--{'pool' if pool else 'decoding'} with runs of the task {chosen!r}", "captions"
        )
    request = Request(
        runs,
        titles,
        ground_truth or ground_truth_of(runs[0]),
        variant,
        parser,
        _decodings(decoding, len(runs)),
        pool,
        draws,
        seed,
    )
    return TASKS[chosen](request)


def titles_of(
    runs: Sequence[Path], names: str | Sequence[str] | None, pool: bool = False
) -> list[str]:
    """Return the names of runs: those given, a text separated at commas, or those of their files.

    Raises:
        VlmHeadsError: not one per run, or two the same where runs are not pooled.
    """
    from vlmheads.errors import VlmHeadsError

    if isinstance(names, str):
        names = names.split(",") if names else None
    titles = (
        [run.stem if run.is_file() else run.name for run in runs] if names is None else list(names)
    )
    if len(titles) != len(runs):
        raise VlmHeadsError(f"{len(titles)} names", f"{len(runs)}, one per run")
    if not pool and len(set(titles)) != len(titles):
        raise VlmHeadsError(
            f"two runs of one name among {titles}", "distinct names", "pass --names"
        )
    return titles


def _decodings(given: str | None, runs: int) -> list[str | None]:
    """Return one decoding per run from a list separated by commas; one stands for all."""
    from vlmheads.errors import VlmHeadsError
    from vlmheads_eval.compare.runs import DECODINGS

    if given is None:
        return [None] * runs
    found: list[str | None] = [word.strip() for word in given.split(",")]
    unknown = [word for word in found if word not in DECODINGS]
    if unknown:
        raise VlmHeadsError(f"decoding {unknown[0]!r}", " or ".join(DECODINGS))
    if len(found) not in (1, runs):
        raise VlmHeadsError(f"{len(found)} decodings", f"{runs}, one per run, or one for all")
    return found * runs if len(found) == 1 else found


def _chair(request: Request) -> tuple[dict[str, Any], list[Any]]:
    from vlmheads_eval.chair.ground_truth import load_ground_truth
    from vlmheads_eval.chair.variants import get_variant
    from vlmheads_eval.compare.chair import compare_chair
    from vlmheads_eval.compare.runs import pool_seeds, score_run
    from vlmheads_eval.records import file_hashes

    chosen = get_variant(request.variant)
    truth = load_ground_truth(request.ground_truth, chosen)
    scores = [
        score_run(title, run, truth, chosen, decoding)
        for title, run, decoding in zip(
            request.titles, request.runs, request.decodings, strict=True
        )
    ]
    inputs = file_hashes([*request.runs, *truth.files])
    del truth
    if request.pool:
        scores = pool_seeds(scores)
    result = compare_chair(scores, draws=request.draws, seed=request.seed)
    read_with = {"read_with": chosen.read_with} if chosen.read_with else {}
    return {**result, "variant": request.variant, **read_with, "inputs": inputs}, scores


def _pope(request: Request) -> tuple[dict[str, Any], list[Any]]:
    from vlmheads_eval.compare.pope import compare_pope
    from vlmheads_eval.pope.questions import read_questions
    from vlmheads_eval.pope.score import read_answers
    from vlmheads_eval.records import file_hashes, predictions_file

    files = [read_questions(path) for path in request.ground_truth]
    answers = {
        title: read_answers(predictions_file(run))
        for title, run in zip(request.titles, request.runs, strict=True)
    }
    result = compare_pope(answers, files, request.parser, draws=request.draws, seed=request.seed)
    return {**result, "inputs": file_hashes([*request.runs, *request.ground_truth])}, []


# A benchmark that can be compared is an entry here.
TASKS: Mapping[str, Callable[[Request], tuple[dict[str, Any], list[Any]]]] = {
    "chair": _chair,
    "pope": _pope,
}
