"""`vlmheads eval score NAME`, `requests` and `data` for benchmarks of questions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vlmheads.output import check_output
from vlmheads_eval.commands import one_line_errors
from vlmheads_eval.commands.results import JSON, about_run, expect_task, files_of, write_result

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
    "humblebench": "HumbleBench: five options, one of them none of the above.",
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

        expect_task(run, name)
        benchmark = get_benchmark(name)
        questions = benchmark.load(Source(data or data_of(run)))
        check_output(json_file, inputs=inputs_of((run,), questions))
        answers = answers_of(benchmark, run, questions)
        result = score_benchmark(
            benchmark, questions, answers, run, reading, draws=draws, seed=seed
        )
        about_run(run, result)
        print_score(result)
        write_result(json_file, result)

    return command


def data_of(run: Path) -> Path:
    """Return the data that a run folder names."""
    from vlmheads_eval.run_folder import ground_truth_of

    return ground_truth_of(run)[0]


def inputs_of(runs: Sequence[Path], questions: Any) -> list[Path]:
    """Return the files that scoring or comparing runs reads."""
    from vlmheads_eval.benchmarks import mme

    read = [file for run in runs for file in (*files_of(run), *mme.result_files(run))]
    return [*read, *questions.files]


def answers_of(benchmark: Any, run: Path, questions: Any) -> Any:
    """Return the answers in a run folder, a file, or a folder of MME's own result files."""
    from vlmheads_eval.benchmarks import mme
    from vlmheads_eval.benchmarks.answers import read_answers

    if benchmark.name == "mme" and mme.result_files(run)[0].is_file():
        return mme.read_results(run, questions)
    return read_answers(run, benchmark.key_of)


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
    from vlmheads_eval.compare import titles_of

    titles = titles_of(runs, names)
    if len(ground_truth) > 1:
        raise VlmHeadsError(f"{len(ground_truth)} --ground-truth", "one")
    benchmark = get_benchmark(task)
    questions = benchmark.load(Source(ground_truth[0] if ground_truth else data_of(runs[0])))
    check_output(json_file, inputs=inputs_of(runs, questions))
    found = {
        title: (one, answers_of(benchmark, one, questions))
        for title, one in zip(titles, runs, strict=True)
    }
    result = compare_benchmark(benchmark, questions, found, reading, draws=draws, seed=seed)
    print_compared(result)
    write_result(json_file, result)


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

    check_output(json_file, inputs=files_of(captions))
    texts = [caption.text for caption in read_captions(captions)]
    result = score_distinct(texts, draws=draws, seed=seed)
    result["sha256"] = file_hashes([captions])
    about_run(captions, result)
    lines = [
        f"{result['captions']} captions, {result['empty']} of them empty, "
        f"{result['words']:.1f} words on average; Distinct-n falls with length.",
        *(f"{name}: {about}." for name, about in VARIANTS.items()),
        *digest_lines(result["sha256"]),
    ]
    print_plain("Distinct-n in %", result, lines)
    write_result(json_file, result)


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
    """CAPTURE of parsed captions, without its soft matching.

    No parser and no encoder are run.
    """
    from vlmheads_eval.benchmarks.capture import score_graphs
    from vlmheads_eval.benchmarks.show import digest_lines, print_plain
    from vlmheads_eval.records import file_hashes

    check_output(json_file, inputs=[graphs, *([stop_words] if stop_words else [])])
    result = score_graphs(graphs, variant, stop_words, draws=draws, seed=seed)
    result["sha256"] = file_hashes([graphs, *([stop_words] if stop_words else [])])
    lines = [
        f"{result['images']} images; matching {result['variant']}; {result['stop_words']} stop "
        "words. Not comparable with published CAPTURE, which adds soft matches.",
        *digest_lines(result["sha256"]),
    ]
    print_plain("CAPTURE in %", result, lines)
    write_result(json_file, result)


SCORES = (*(score_command(name) for name in ABOUT), distinct, capture)
