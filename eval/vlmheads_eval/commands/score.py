"""`vlmheads eval score`: CHAIR, POPE, AMBER and the benchmarks of questions."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from vlmheads.commands.edge import OneLineGroup, one_line_errors
from vlmheads.errors import VlmHeadsError
from vlmheads.output import check_output, save
from vlmheads.printable import one_line
from vlmheads_eval.chair.mentions import VARIANTS
from vlmheads_eval.commands.benchmarks import SCORES
from vlmheads_eval.commands.judged import RATINGS
from vlmheads_eval.commands.results import JSON, about_run, expect_task, files_of, write_result
from vlmheads_eval.pope.parsers import PARSERS

PREDICTIONS = click.argument("predictions", type=click.Path(exists=True, path_type=Path))
GROUND_TRUTH = click.option(
    "--ground-truth",
    "-g",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Objects in the images, or questions; several are merged. A run folder has its own.",
)
MESSAGES_SHOWN = 20


@click.group(cls=OneLineGroup)
def score() -> None:
    """Score predictions in a run folder, JSON Lines or a JSON list."""


@score.command()
@PREDICTIONS
@GROUND_TRUTH
@click.option("--variant", default="pattern", show_default=True, type=click.Choice(VARIANTS))
@click.option(
    "--vocabulary",
    type=click.Path(exists=True, path_type=Path),
    help="Categories other than COCO's, for --variant fixed: a COCO, LVIS or Objects365 file, "
    "or a table of words.",
)
@click.option(
    "--repeats/--no-repeats",
    default=None,
    help="Allow several captions per image. By default in a JSON list, not in JSON Lines.",
)
@click.option("--download", is_flag=True, help="Download NLTK's data for --variant wordnet first.")
@click.option(
    "--word-lists",
    is_flag=True,
    help="--variant fixed: read with word lists even where the parser is installed.",
)
@JSON
@one_line_errors
def chair(
    predictions: Path,
    ground_truth: tuple[Path, ...],
    variant: str,
    vocabulary: Path | None,
    repeats: bool | None,
    download: bool,
    word_lists: bool,
    json_file: Path | None,
) -> None:
    """CHAIR of captions, with recall, length and repetition.

    It also scores the captions cut after k sentences, the truncation frontier.
    """
    from vlmheads_eval.chair.ground_truth import load_ground_truth
    from vlmheads_eval.chair.measures import CaptionScore
    from vlmheads_eval.chair.score import score_chair
    from vlmheads_eval.chair.variants import get_variant
    from vlmheads_eval.compat import download_nltk_data
    from vlmheads_eval.records import Caption, file_hashes, read_captions
    from vlmheads_eval.report.tables import print_chair

    if download:
        download_nltk_data()
    expect_task(predictions, "caption")
    ground_truth = _truth(predictions, ground_truth, json_file)
    chosen = get_variant(variant, vocabulary, parser=False if word_lists else None)
    truth = load_ground_truth(ground_truth, chosen)
    unknown = 0
    with _spool(json_file is not None) as spool:

        def each(caption: Caption, score: CaptionScore) -> None:
            nonlocal unknown
            if not score.known:
                unknown += 1
                if unknown <= MESSAGES_SHOWN:
                    note = f"{caption.place}: image {caption.image_id!r} is not in the ground truth"
                    note += "; counted as an image without objects, as in the reference"
                    click.echo(one_line(note), err=True)
            if spool:
                spool.write("" if spool.tell() == 0 else ",\n")
                json.dump(score.to_dict(), spool)

        captions = read_captions(predictions, repeats=repeats)
        result = score_chair(captions, truth, chosen, each)
        result["inputs"] = file_hashes([predictions, *truth.files])
        about_run(predictions, result)
        if unknown > MESSAGES_SHOWN:
            click.echo(f"... and {unknown - MESSAGES_SHOWN} more such images", err=True)
        print_chair(result)
        if spool and json_file:
            _write_with_captions(json_file, result, spool)


@score.command()
@PREDICTIONS
@GROUND_TRUTH
@click.option("--parser", default="strict", show_default=True, type=click.Choice(list(PARSERS)))
@JSON
@one_line_errors
def pope(
    predictions: Path, ground_truth: tuple[Path, ...], parser: str, json_file: Path | None
) -> None:
    """POPE of answers.

    The ground truth is one question file per split.
    """
    from vlmheads_eval.pope.questions import read_questions
    from vlmheads_eval.pope.score import read_answers, score_pope
    from vlmheads_eval.records import predictions_file
    from vlmheads_eval.report.tables import print_pope

    expect_task(predictions, "pope")
    truth = _truth(predictions, ground_truth, json_file)
    files = [read_questions(path) for path in truth]
    result = score_pope(files, read_answers(predictions_file(predictions)), parser)
    about_run(predictions, result)
    print_pope(result)
    write_result(json_file, result)


@score.command()
@PREDICTIONS
@GROUND_TRUTH
@click.option(
    "--similarity",
    default="exact",
    show_default=True,
    help='Which words count as the same: "exact" or "spacy:MODEL". The paper uses '
    "spacy:en_core_web_lg.",
)
@click.option("--download", is_flag=True, help="Download NLTK's data first.")
@JSON
@one_line_errors
def amber(
    predictions: Path,
    ground_truth: tuple[Path, ...],
    similarity: str,
    download: bool,
    json_file: Path | None,
) -> None:
    """AMBER of descriptions and answers.

    The ground truth is its data folder.
    """
    from vlmheads_eval.benchmarks.amber import load_amber, read_responses
    from vlmheads_eval.benchmarks.amber_beside import amber_intervals, print_amber
    from vlmheads_eval.benchmarks.amber_score import score_amber
    from vlmheads_eval.compat import download_nltk_data
    from vlmheads_eval.records import file_hashes, predictions_file

    if download:
        download_nltk_data()
    expect_task(predictions, "amber")
    folders = _truth(predictions, ground_truth, json_file)
    if len(folders) != 1:
        raise VlmHeadsError(f"{len(folders)} ground truths", "AMBER's data folder")
    folder = folders[0]
    truth = load_amber(folder)
    responses = read_responses(predictions_file(predictions))
    result = score_amber(responses, truth, similarity)
    result["intervals"] = amber_intervals(folder, predictions, similarity)
    result["inputs"] = file_hashes([predictions, *truth.files])
    about_run(predictions, result)
    print_amber(result)
    write_result(json_file, result)


for _command in (*SCORES, *RATINGS):
    score.add_command(_command)


def _truth(predictions: Path, given: tuple[Path, ...], json_file: Path | None) -> tuple[Path, ...]:
    """Return the ground truth given or that of the run folder; refuse to overwrite what is read."""
    from vlmheads_eval.run_folder import ground_truth_of

    truth = given or ground_truth_of(predictions)
    inputs = [*files_of(predictions), *truth]
    inputs += [path for folder in truth if folder.is_dir() for path in folder.rglob("*.json")]
    check_output(json_file, inputs=inputs)
    return truth


@contextmanager
def _spool(wanted: bool) -> Iterator[IO[str] | None]:
    """Keep the results of captions on disk, so that memory does not grow with their number."""
    if not wanted:
        yield None
        return
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        yield file


def _write_with_captions(path: Path, result: dict[str, Any], captions: IO[str]) -> None:
    # "overall" comes first for human readers, the captions last.
    head = json.dumps({"overall": result["overall"], **result}, indent=1).removesuffix("\n}")

    def write(place: Path) -> None:
        captions.seek(0)
        with place.open("w", encoding="utf-8") as file:
            file.write(head + ',\n "captions": [\n')
            shutil.copyfileobj(captions, file)
            file.write("\n ]\n}\n")

    save(path, write)
