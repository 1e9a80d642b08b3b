"""Runs compared with a baseline, paired by image: captions, answers, or folders of either."""

from pathlib import Path
from typing import Any


def compared(
    runs: tuple[Path, ...],
    ground_truth: tuple[Path, ...],
    names: str | None,
    task: str | None,
    variant: str,
    parser: str,
    draws: int,
    seed: int,
) -> tuple[dict[str, Any], list[Any]]:
    """Return the comparison of runs, and the scores of runs of captions."""
    from vlmheads.errors import VlmHeadsError
    from vlmheads_eval.chair.ground_truth import load_ground_truth
    from vlmheads_eval.chair.variants import get_variant
    from vlmheads_eval.compare.chair import compare_chair, score_run
    from vlmheads_eval.compare.pope import compare_pope
    from vlmheads_eval.pope.questions import read_questions
    from vlmheads_eval.pope.score import read_answers
    from vlmheads_eval.records import file_hashes, predictions_file
    from vlmheads_eval.run_folder import CONFIG, ground_truth_of, read_config

    titles = (
        names.split(",") if names else [run.stem if run.is_file() else run.name for run in runs]
    )
    if len(titles) != len(runs):
        raise VlmHeadsError(f"{len(titles)} names", f"{len(runs)}, one per run")
    truth_paths = ground_truth or ground_truth_of(runs[0])
    asked = read_config(runs[0])["task"] if (runs[0] / CONFIG).is_file() else "caption"
    if (task or asked) == "pope":
        files = [read_questions(path) for path in truth_paths]
        answers = {
            title: read_answers(predictions_file(run))
            for title, run in zip(titles, runs, strict=True)
        }
        result = compare_pope(answers, files, parser, draws=draws, seed=seed)
        return {**result, "inputs": file_hashes([*runs, *truth_paths])}, []
    chosen = get_variant(variant)
    truth = load_ground_truth(truth_paths, chosen)
    scores = [score_run(title, run, truth, chosen) for title, run in zip(titles, runs, strict=True)]
    result = compare_chair(scores, draws=draws, seed=seed)
    inputs = file_hashes([*runs, *truth.files])
    read_with = {"read_with": chosen.read_with} if chosen.read_with else {}
    return {**result, "variant": variant, **read_with, "inputs": inputs}, scores
