"""`vlmheads eval score NAME`, `requests` and `data` for benchmarks of questions."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vlmheads_eval.commands import one_line_errors

RUN = click.argument("run", type=click.Path(exists=True, path_type=Path))
DATA = click.option(
    "--data",
    "--ground-truth",
    "-g",
    type=click.Path(exists=True, path_type=Path),
    help="The benchmark's data; a run folder names its own.",
)
DRAWS = click.option(
    "--draws", default=2_000, show_default=True, type=click.IntRange(100, 1_000_000)
)
SEED = click.option("--seed", default=0, show_default=True)
JSON = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the full result as JSON."
)
# Name -> readings, spelled out so that --help needs none of the benchmarks' modules.
READINGS = {
    "mme": ("official", "strict", "lmms-eval", "vlmevalkit"),
    "hallusionbench": ("strict", "words", "judged", "internvl", "internvl-images", "vlmevalkit"),
    "dash-b": ("official", "strict"),
    "popev2": ("strict", "words"),
    "humblebench": ("official",),
    "humblebench-e": ("official",),
}
ABOUT = {
    "mme": "MME's tasks existence, count, position and color.",
    "hallusionbench": "HallusionBench, without a judge or with its verdicts.",
    "dash-b": "DASH-B: objects that models see where they are not.",
    "popev2": "POPEv2: an object on a photo, and on the photo without it.",
    "humblebench": "HumbleBench: five options, the last of them none of the above.",
    "humblebench-e": "HumbleBench with the right options taken out.",
}


COMPARED = (*ABOUT, "amber")  # What `compare` knows besides captions and POPE.


def score_command(name: str) -> click.Command:
    """Return the command that scores answers to a benchmark's questions."""

    @click.command(name, help=f"{ABOUT[name]}\n\nRUN: a run folder, JSON Lines or a JSON list.")
    @RUN
    @DATA
    @click.option(
        "--reading",
        type=click.Choice(READINGS[name]),
        help=f"How answers are read. [default: {READINGS[name][0]}]",
    )
    @DRAWS
    @SEED
    @JSON
    @one_line_errors
    def command(
        run: Path,
        data: Path | None,
        reading: str | None,
        draws: int,
        seed: int,
        json_file: Path | None,
    ) -> None:
        from vlmheads_eval.benchmarks.record import Source
        from vlmheads_eval.benchmarks.registry import get_benchmark
        from vlmheads_eval.benchmarks.score import score_benchmark
        from vlmheads_eval.benchmarks.show import print_score

        benchmark = get_benchmark(name)
        questions = benchmark.load(Source(data or data_of(run)))
        answers = answers_of(benchmark, run, questions)
        result = score_benchmark(
            benchmark, questions, answers, run, reading, draws=draws, seed=seed
        )
        write(json_file, result, (run, *questions.files))
        print_score(result)

    return command


def data_of(run: Path) -> Path:
    """Return the data that a run folder names."""
    from vlmheads_eval.run_folder import ground_truth_of

    return ground_truth_of(run)[0]


def answers_of(benchmark: Any, run: Path, questions: Any) -> Any:
    """Return the answers in a run folder, a file, or a folder of MME's own result files."""
    from vlmheads_eval.benchmarks import mme
    from vlmheads_eval.benchmarks.answers import read_answers

    if benchmark.name == "mme" and (run / f"{mme.TASKS[0]}.txt").is_file():
        return mme.read_results(run, questions)
    return read_answers(run, benchmark.key_of)


def write(path: Path | None, result: Any, inputs: tuple[Path, ...]) -> None:
    """Write a result as JSON, unless that would overwrite what it was made from."""
    from vlmheads.errors import VlmHeadsError

    if path is None:
        return
    if path.exists() and any(one.exists() and path.samefile(one) for one in inputs):
        raise VlmHeadsError(f"--json {path}", "another file than the input")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        os.replace(part, path)
    except OSError as error:
        raise VlmHeadsError(f"{path} cannot be written ({error.strerror})") from error


def task_of(runs: Sequence[Path], task: str | None) -> str:
    """Return the task to compare runs in: the one given, or that of the first run folder."""
    from vlmheads_eval.run_folder import CONFIG, read_config

    if task:
        return task
    return str(read_config(runs[0])["task"]) if (runs[0] / CONFIG).is_file() else "chair"


def compare_runs(
    runs: Sequence[Path],
    ground_truth: Sequence[Path],
    names: str | None,
    task: str,
    reading: str | None,
    draws: int,
    seed: int,
    json_file: Path | None,
) -> None:
    """Compare runs of a benchmark with the first of them, and print it."""
    from vlmheads.errors import VlmHeadsError
    from vlmheads_eval.benchmarks.compare import compare_benchmark
    from vlmheads_eval.benchmarks.record import Source
    from vlmheads_eval.benchmarks.registry import get_benchmark
    from vlmheads_eval.benchmarks.show import print_compared

    titles = (
        names.split(",") if names else [one.stem if one.is_file() else one.name for one in runs]
    )
    if len(titles) != len(runs) or len(set(titles)) != len(titles):
        raise VlmHeadsError(f"names {', '.join(titles)}", f"{len(runs)} distinct ones", "--names")
    if len(ground_truth) > 1:
        raise VlmHeadsError(f"{len(ground_truth)} --ground-truth", "one")
    benchmark = get_benchmark(task)
    questions = benchmark.load(Source(ground_truth[0] if ground_truth else data_of(runs[0])))
    found = {
        title: (one, answers_of(benchmark, one, questions))
        for title, one in zip(titles, runs, strict=True)
    }
    result = compare_benchmark(benchmark, questions, found, reading, draws=draws, seed=seed)
    write(json_file, result, (*runs, *questions.files))
    print_compared(result)


@click.command()
@click.argument("captions", type=click.Path(exists=True, path_type=Path))
@DRAWS
@SEED
@JSON
@one_line_errors
def distinct(captions: Path, draws: int, seed: int, json_file: Path | None) -> None:
    """Distinct-1 and -2 of captions, in four named variants."""
    from vlmheads_eval.benchmarks.distinct import VARIANTS, score_distinct
    from vlmheads_eval.benchmarks.show import digest_lines, print_plain
    from vlmheads_eval.records import file_hashes, read_captions

    texts = [caption.text for caption in read_captions(captions)]
    result = score_distinct(texts, draws=draws, seed=seed)
    result["sha256"] = file_hashes([captions])
    write(json_file, result, (captions,))
    lines = [
        f"{result['captions']} captions, {result['empty']} of them empty, "
        f"{result['words']:.1f} words on average; Distinct-n falls with length.",
        *(f"{name}: {about}." for name, about in VARIANTS.items()),
        *digest_lines(result["sha256"]),
    ]
    print_plain("Distinct-n in %", result, lines)


@click.command()
@click.argument("graphs", type=click.Path(exists=True, path_type=Path))
@click.option("--variant", default="synonyms", type=click.Choice(("synonyms", "exact")))
@click.option(
    "--stop-words",
    type=click.Path(exists=True, path_type=Path),
    help="Objects that do not count, one per line; CAPTURE's package has 317.",
)
@DRAWS
@SEED
@JSON
@one_line_errors
def capture(
    graphs: Path,
    variant: str,
    stop_words: Path | None,
    draws: int,
    seed: int,
    json_file: Path | None,
) -> None:
    """CAPTURE of parsed captions, without its soft matching (no parser, no encoder)."""
    from vlmheads_eval.benchmarks.capture import score_graphs
    from vlmheads_eval.benchmarks.show import digest_lines, print_plain
    from vlmheads_eval.records import file_hashes

    result = score_graphs(graphs, variant, stop_words, draws=draws, seed=seed)
    result["sha256"] = file_hashes([graphs, *([stop_words] if stop_words else [])])
    write(json_file, result, (graphs,))
    lines = [
        f"{result['images']} images; matching {result['variant']}; {result['stop_words']} stop "
        "words. Not comparable with published CAPTURE, which adds soft matches.",
        *digest_lines(result["sha256"]),
    ]
    print_plain("CAPTURE in %", result, lines)


SCORES = (*(score_command(name) for name in ABOUT), distinct, capture)
