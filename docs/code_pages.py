"""Pages that are made from the code, in Markdown: the API reference, the commands, and documents.

* api/NAME.md: the public modules of every package, for mkdocstrings;
* cli.md: what every command prints under --help;
* changelog.md, contributing.md, security.md, testbed.md: documents that live outside of docs/.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
from linking import ELSEWHERE, cell, inside

import vlmheads
from vlmheads.cli import main

ROOT = Path(__file__).parents[1]
# The API reference: a page, what it is about, and the modules on it. What `vlmheads` exports and
# is on no page goes on the first one. A module that begins with "_" is of another package.
REFERENCE = {
    "attach": (
        "Attach and caption",
        "What most programs need.",
        "runtime.attachment caption headmap notebook registry model.loading images errors",
    ),
    "jobs": (
        "Captioning jobs",
        "Any number of images; see [Captioning jobs](../captioning-jobs.md).",
        "jobs.api jobs.run jobs.inputs jobs.outputs",
    ),
    "endpoint": (
        "Endpoints",
        "Models behind a server; see [Serving](../serving.md). Needs the extra `endpoint`.",
        "endpoint.settings endpoint.client endpoint.probe endpoint.answers endpoint.captions "
        "endpoint.words endpoint.images",
    ),
    "words": (
        "Words",
        "How far the image supports each word of a caption.",
        "grounding.words grounding.scores grounding.measure grounding.rewrite grounding.catalogue "
        "grounding.probability grounding.attending grounding.divergence grounding.confidence "
        "grounding.candidates grounding.relevancy grounding.patch_lens "
        "grounding.glsim grounding.inslen grounding.questions grounding.lpfv grounding.risk "
        "grounding.guarantee",
    ),
    "detect": (
        "Detectors",
        "Read-only measurements; see [Detectors](../detectors.md).",
        "detect.divergence detect.sinks detect.dominance detect.attention_sink detect.retrieval "
        "detect.attribution",
    ),
    "plugin": (
        "Write a plugin",
        "What the hooks of a method are handed, and what they may ask for.",
        "plugin options runtime.request runtime.attention runtime.streams model.vision "
        "model.geometry model.anatomy",
    ),
    "families": ("Model families", "What differs between models.", "model.families"),
    "export": (
        "Gains outside of vlmheads",
        "Effects on heads as a PEFT adapter, or written into the files of a checkpoint.",
        "gains.adapter gains.bake gains.folds gains.names gains.check",
    ),
    "figures": (
        "Figures",
        "One look for files, reports and pages; needs the extra `figures`.",
        "plotting.maps plotting.figures plotting.palette plotting.drawing",
    ),
    "evaluate": (
        "Evaluate",
        "The steps of [the evaluator](../evaluation.md) from Python; needs the extra `eval`.",
        "_eval.records _eval.data _eval.chair.variants _eval.chair.ground_truth _eval.chair.score "
        "_eval.pope.score _eval.benchmarks.registry _eval.benchmarks.score _eval.compare.chair "
        "_eval.statistics _eval.report.page",
    ),
    "testbed": (
        "The test bench",
        "Scenes with known objects; needs the extra `testbed`.",
        "_testbed.scenes _testbed.coco _testbed.categories",
    ),
}


def pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the Markdown of every such page."""
    yield "api/index.md", reference_index()
    for name, (title, about, _) in REFERENCE.items():
        yield f"api/{name}.md", reference_page(title, about, modules_of(name))
    yield "cli.md", command_page()
    for name, source in ELSEWHERE.items():
        yield name, from_elsewhere(source)


def from_elsewhere(source: str) -> str:
    """Return a document of the repository with its links as seen from docs/."""
    text = (ROOT / source).read_text("utf-8")
    return re.sub(r"\]\((?:\.\./)*docs/", "](", inside(text))


def modules_of(page: str) -> list[str]:
    """Return the modules on a page of the reference."""
    listed = {module for _, _, modules in REFERENCE.values() for module in modules.split()}
    others = sorted(set(vlmheads.HOMES.values()) - listed - {"detect"})
    return REFERENCE[page][2].split() + (others if page == next(iter(REFERENCE)) else [])


def reference_index() -> str:
    """Return the front page of the API reference: every public name and where it is."""
    home = {module: page for page in REFERENCE for module in modules_of(page)}
    rows = []
    for name in vlmheads.__all__:
        if name == "detect":
            rows.append("| [`vlmheads.detect`](detect.md) | Read-only measurements of heads. |")
            continue
        module = vlmheads.HOMES[name]
        about = (inspect.getdoc(getattr(vlmheads, name)) or "").partition("\n")[0]
        link = f"{home[module]}.md#vlmheads.{module}.{name}"
        rows.append(f"| [`vlmheads.{name}`]({link}) | {cell(about)} |")
    return "\n".join(
        [
            "# API reference",
            "",
            "Made from the docstrings. Everything that a program needs is one of these names:",
            "",
            "| name | what it is |",
            "| --- | --- |",
            *rows,
            "",
            "Methods are classes of `vlmheads_plugins`, such as `vlmheads_plugins.VHR`; each has a",
            "[page](../methods.md).",
            "",
        ]
    )


def reference_page(title: str, about: str, modules: list[str]) -> str:
    """Return a page on which mkdocstrings writes what some modules hold."""
    # A search shows the guides first.
    lines = ["---", "search: {boost: 0.5}", "---", "", f"# {title}", "", about]
    for module in modules:
        full = f"vlmheads{module}" if module.startswith("_") else f"vlmheads.{module}"
        lines += ["", f"::: {full}", "    options:", "      heading_level: 2"]
    return "\n".join(lines) + "\n"


def command_page() -> str:
    """Return what every command of the command line prints under --help."""
    lines = ["# The command line", "", "Every command, as `--help` prints it."]
    for names, command in _commands(main, ("vlmheads",)):
        with click.Context(command, info_name=" ".join(names), terminal_width=96) as context:
            text = command.get_help(context)
        lines += ["", f"{'#' * max(len(names), 2)} {' '.join(names)}", ""]
        lines += ["```text", text, "```"]
    return "\n".join(lines) + "\n"


def _commands(
    command: click.Command, names: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from _commands(found, (*names, name))
