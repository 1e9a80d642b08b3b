"""`vlmheads tune`: which method, at which strength, for a model; or a word scorer for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vlmheads.commands.endpoint_options import flag, said
from vlmheads.errors import VlmHeadsError
from vlmheads_eval.chair.mentions import VARIANTS
from vlmheads_eval.commands import one_line_errors
from vlmheads_eval.commands.given import command_line
from vlmheads_eval.commands.tune_words import RULES
from vlmheads_eval.tune.settings import ALL, IMAGES, OBJECTIVES

# Options of one of the two alone, and their defaults there; those of both differ in their defaults.
SEARCH: Mapping[str, Any] = {
    "methods": ALL,
    "budget": None,
    "objective": "f1",
    "name": "preset",
    "force": False,
    "num": None,
    "batch_size": 8,
    "max_new_tokens": 256,
    "variant": "pattern",
    "seed": 0,
}
WORDS: Mapping[str, Any] = {
    "alpha": 0.2,
    "rule": "learn-then-test",
    "loss": "any",
    "delta": None,
    "beta": None,
    "plugins": (),
    "lens": True,
    "num": 1000,
    "batch_size": 16,
    "max_new_tokens": 128,
    "variant": "fixed",
    "seed": 1,
}


def _default(name: str) -> str:
    """Return the defaults of an option of both, for its help."""
    return f"[default: {SEARCH[name]}; words: {WORDS[name]}]"


_OPEN = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command(
    epilog="\b\nExample:\n  vlmheads tune --model M --data COCO --out tuned --budget 2h\n"
    "  vlmheads presets install tuned/preset.json"
)
@click.option("--words", is_flag=True, help="Tune the scorer of `caption --flag` and `--drop`.")
@click.option("--model", default="embedded", show_default=True, help="A name, folder or hub id.")
@click.option(
    "--data",
    default="testbed:val",
    show_default=True,
    help="Images with known objects: a COCO folder, a split of the test bench, or a JSON Lines "
    'file of {"image": "a.png", "objects": ["dog"]}.',
)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder, which a second call resumes; words: the scorer's file.",
)
@click.option(
    "--num",
    type=click.IntRange(4),
    help=f"Images, drawn with the seed. [default: at most {IMAGES}; words: {WORDS['num']}]",
)
@click.option("--methods", help=f"Plugins, separated by commas. [default: {ALL}]")
@click.option(
    "--budget",
    help="What the search may cost: a time such as 30m or 2h, by the estimate, or a number of "
    "captions such as 2000img. Fewer images are used then.",
)
@click.option(
    "--objective",
    type=click.Choice(list(OBJECTIVES)),
    help="What has to get better at equal recall: object F1, or CHAIR_S. [default: f1]",
)
@click.option("--name", help="Of the preset's file in OUT. [default: preset]")
@click.option("--force", is_flag=True, help="Write the best as a preset, recommended or not.")
@click.option("--prompt", help='The prompt. [default: "Describe the image."]')
@click.option("--batch-size", type=click.IntRange(1), help=f"{_default('batch_size')}")
@click.option("--max-new-tokens", type=click.IntRange(1), help=f"{_default('max_new_tokens')}")
@click.option(
    "--variant", type=click.Choice(VARIANTS), help=f"The variant of CHAIR. {_default('variant')}"
)
@click.option(
    "--seed", type=click.IntRange(0, 99999), help=f"For images and their parts. {_default('seed')}"
)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--device", help="Such as cpu or cuda:0.")
@click.option("--alpha", type=_OPEN, help="words: the risk. [default: 0.2]")
@click.option(
    "--rule",
    type=click.Choice(list(RULES)),
    help="words: learn-then-test holds with confidence 1 - delta, the others on average. "
    "[default: learn-then-test]",
)
@click.option(
    "--loss",
    type=click.Choice(["any", "share"]),
    help="words: any: whether a caption keeps a false object; share: their share of those kept. "
    "[default: any]",
)
@click.option(
    "--delta",
    type=_OPEN,
    help="words, learn-then-test: how often a calibration may exceed the risk. [default: 0.1]",
)
@click.option(
    "--beta",
    type=click.FloatRange(0, 1, max_open=True),
    help="words, tolerance: the share of false objects that a caption may keep. [default: 0.1]",
)
@click.option("--plugin", "plugins", multiple=True, help="words: plugins under which to caption.")
@click.option("--lens/--no-lens", default=None, help="words: try the lens scores, too. [default]")
@one_line_errors
def tune(words: bool, **given: Any) -> None:
    """Find the method that helps a model, or that none does.

    The strength of each method is searched, too. The images are divided into three parts. What
    methods have to learn is learned on the first; settings of all plugins are compared with the
    plain model on the second, the better half on more and more images; the last three are
    compared on the third, once. A setting is recommended only if it beats the plain model there
    at equal recall, and random heads or directions where it selects some. "None" is a result:
    the exit code is 0, and no preset is written.

    --words: fit a word scorer instead, and choose its threshold so that at most ALPHA of captions
    keep an object that is not there. OUT is then its file, which `caption --flag --scorer` takes.
    """
    defaults, others = (WORDS, SEARCH) if words else (SEARCH, WORDS)
    _refuse_idle([name for name in others if name not in defaults], words)
    chosen: dict[str, Any] = {
        name: defaults.get(name) if value is None or not said(name) else value
        for name, value in given.items()
        if name in defaults or name not in others
    }
    shared = ("model", "data", "images", "out", "prompt", "dtype", "device")
    chosen |= {name: given[name] for name in shared}
    if words:
        from vlmheads_eval.commands.tune_words import tune_words_of

        tune_words_of(**chosen)
        return
    _search(chosen, command_line())


def _search(chosen: Mapping[str, Any], command: str) -> None:
    from vlmheads.commands.show import quiet_loading
    from vlmheads.jobs.processes import launched
    from vlmheads.output import check_folder
    from vlmheads_eval.tune.progress import progress_shown
    from vlmheads_eval.tune.report import print_outcome, write_outcome
    from vlmheads_eval.tune.run import search
    from vlmheads_eval.tune.settings import Settings

    methods = tuple(name.strip() for name in chosen["methods"].split(",") if name.strip())
    settings = Settings(**{**chosen, "methods": methods, "command": command})
    first = launched().process_index == 0
    if first:
        check_folder(settings.out)
    quiet_loading(settings.model)
    with progress_shown(first) as (say, progress):
        found = search(settings, say, progress)
    outcome = write_outcome(found)
    if not first:
        return
    print_outcome(found, outcome)
    for file in outcome.files:
        click.echo(f"wrote {file}")
    if outcome.recommended:
        click.echo(f"`vlmheads presets install {outcome.preset}` keeps it for --plugin auto")


def _refuse_idle(names: list[str], words: bool) -> None:
    """Refuse options that were given and have no effect."""
    for name in names:
        if said(name):
            kind = "with --words" if words else "without --words"
            raise VlmHeadsError(
                f"{flag(name)} {kind}", "options of the search" if words else "--words"
            )
