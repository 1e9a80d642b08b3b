"""`vlmheads eval requests` and `score mmhal|openchair`: what a judge is asked, what it said."""

from pathlib import Path

import click

from vlmheads.output import check_output
from vlmheads_eval.commands import one_line_errors
from vlmheads_eval.commands.benchmarks import DATA, DRAWS, RUN, SEED, data_of
from vlmheads_eval.commands.results import JSON, write_result


def ratings_command(name: str, about: str) -> click.Command:
    """Return the command that scores a judge's answers to requests."""

    @click.command(name, help=f"{about}\n\nRATINGS: what the judge said, JSON Lines.")
    @click.argument("ratings", type=click.Path(exists=True, path_type=Path))
    @click.option(
        "--requests",
        required=True,
        type=click.Path(exists=True, path_type=Path),
        help="The file of `vlmheads eval requests` that was answered.",
    )
    @DRAWS
    @SEED
    @JSON
    @one_line_errors
    def command(
        ratings: Path, requests: Path, draws: int, seed: int, json_file: Path | None
    ) -> None:
        from vlmheads_eval.benchmarks import mmhal, openchair
        from vlmheads_eval.benchmarks.judged import read_ratings
        from vlmheads_eval.benchmarks.show import digest_lines, print_plain
        from vlmheads_eval.records import file_hashes

        check_output(json_file, inputs=[ratings, requests])
        score = {"mmhal": mmhal.score_ratings, "openchair": openchair.score_ratings}[name]
        result = score(read_ratings(ratings, requests), draws=draws, seed=seed)
        result["sha256"] = file_hashes([ratings, requests])
        counts = ("questions", "mentions", "yes", "no", "unsure", "unparsed")
        said = ", ".join(f"{one} {_count(result[one])}" for one in counts if one in result)
        lines = [
            f"judge: {result['judge']}; {said}.",
            "Constant answers have no floor here: what they get depends on the judge.",
            *digest_lines(result["sha256"]),
        ]
        print_plain(f"{name}, shares in %", result, lines)
        write_result(json_file, result)

    return command


def _count(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value * 100:.1f} %"


RATINGS = (
    ratings_command("mmhal", "MMHal-Bench from a judge's ratings."),
    ratings_command("openchair", "OpenCHAIR from a judge's verdicts on objects."),
)


@click.command()
@click.argument("name", type=click.Choice(("mmhal", "openchair")))
@RUN
@DATA
@click.option("--judge", required=True, help="The model to be asked, as its server calls it.")
@click.option(
    "--template",
    type=click.Path(exists=True, path_type=Path, dir_okay=False),
    help="Another wording, with {question}, {answer}, {gt_answer} and {image_content} (mmhal) or "
    "{reference} and {object} (openchair).",
)
@click.option(
    "--concreteness",
    type=click.Path(exists=True, path_type=Path, dir_okay=False),
    help="For openchair: Brysbaert et al.'s table as CSV.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False))
@one_line_errors
def requests(
    name: str,
    run: Path,
    data: Path | None,
    judge: str,
    template: Path | None,
    concreteness: Path | None,
    out: Path,
) -> None:
    """Write what to ask a judge about the answers in RUN.

    The lines are those of an OpenAI batch; nothing is sent. Have the lines answered (OpenAI's
    batches, vLLM's run-batch), then use `vlmheads eval score NAME ANSWERS --requests OUT`.
    """
    from vlmheads_eval.benchmarks.judging import write_judge_requests

    for line in write_judge_requests(
        name, run, data or data_of(run), judge, template, concreteness, out
    ):
        click.echo(line)
