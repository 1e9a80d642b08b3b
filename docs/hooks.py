"""Pages of the site that are made from the code while it is built; mkdocs calls `on_...`.

Nothing here is written into docs/, so that nothing has to be committed twice:

* methods/NAME.md: what each plugin says of itself, in its docstring and options;
* api/NAME.md: the public modules of every package, for mkdocstrings;
* cli.md: what every command prints under --help;
* figures.css: the colours of vlmheads/plotting/palette.py, in which figures are drawn;
* changelog.md, contributing.md, security.md, testbed.md: documents that live outside of docs/.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import vlmheads
from vlmheads.cli import main
from vlmheads.plotting.palette import DARK, LIGHT, variables
from vlmheads.plugin import Plugin
from vlmheads.registry import get_plugin, list_plugins, read_preset, shipped_presets

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "changelog.md": "CHANGELOG.md",
    "code-of-conduct.md": "CODE_OF_CONDUCT.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "testbed.md": "testbed/README.md",
}
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
FIGURE = re.compile(r"^<!-- figure: (?P<file>\S+)(?: (?P<name>\S+) (?P<title>\S+))? -->$", re.M)
LABEL = re.compile(r"^(Source|Sources|Cost|Evidence|Deviations|Memory|Limits|Note)(:)", re.M)
EXTERNAL = re.compile(
    r"""<(?:script|img|iframe|source|link(?=[^>]*stylesheet))[^>]*(?:src|href)=["']?https?:[^>]*>"""
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from code, and those that live outside of docs/."""
    for path, text in (*pages(), ("figures.css", figure_colours())):
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the entries of the navigation that stand for generated pages."""
    made = [path for path, _ in pages() if "/" in path and not path.endswith("index.md")]
    config.nav = [_filled(entry, made) for entry in config.nav or []]
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the figures, and give links the form that they have inside of the site."""
    markdown = FIGURE.sub(_figure, _inside(markdown))
    if page.file.src_uri != "methods.md":
        return markdown
    names = "|".join(list_plugins())
    return re.sub(rf"^\| `({names})` \|", r"| [`\1`](methods/\1.md) |", markdown, flags=re.M)


def _figure(match: re.Match[str]) -> str:
    """Draw a file of docs/data: a head map, or the truncation frontier of a comparison."""
    found = json.loads((ROOT / "docs" / "data" / match["file"]).read_text("utf-8"))
    if match["name"] is None:
        return f'<figure class="small">{_head_map(found)}</figure>'
    from vlmheads_eval.report.figures import frontier_plot

    return f"<figure>{frontier_plot(found, match['name'], match['title'])}</figure>"


def _head_map(found: Mapping[str, Any]) -> str:
    """Draw a head map with its four largest values outlined."""
    import torch

    from vlmheads.headmap import HeadMap
    from vlmheads.model.geometry import Geometry
    from vlmheads.plotting.drawing import as_svg
    from vlmheads.plotting.maps import plot_head_map

    values = torch.tensor(found["values"])
    head_map = HeadMap(values[None], Geometry("", *values.shape), found["measure"])
    figure = plot_head_map(head_map, chosen=[(layer, head) for layer, head, _ in head_map.top(4)])
    figure.axes[0].set_title(f"mean of {found['images']} images", loc="left")
    return as_svg(figure, f"{found['measure']} of every head, layers against heads")


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would fetch anything from elsewhere."""
    found = EXTERNAL.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} fetches from elsewhere: {found[0]}")
    return output


def pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the Markdown of every generated page."""
    for name in list_plugins():
        yield f"methods/{name}.md", method_page(name)
    yield "api/index.md", reference_index()
    for name, (title, about, _) in REFERENCE.items():
        yield f"api/{name}.md", reference_page(title, about, modules_of(name))
    yield "cli.md", command_page()
    for name, source in ELSEWHERE.items():
        yield name, from_elsewhere(source)


def figure_colours() -> str:
    """Return the style sheet that gives figures the colours of the page's theme."""
    return (
        f'[data-md-color-scheme="default"]{{{variables(LIGHT)}}}\n'
        f'[data-md-color-scheme="slate"]{{{variables(DARK)}}}\n'
    )


def from_elsewhere(source: str) -> str:
    """Return a document of the repository with its links as seen from docs/."""
    text = (ROOT / source).read_text("utf-8")
    return re.sub(r"\]\((?:\.\./)*docs/", "](", _inside(text))


def _inside(text: str) -> str:
    """Turn links to documents outside of docs/ into links to their pages."""
    for name, path in ELSEWHERE.items():
        text = re.sub(rf"\]\((?:\.\./)*{re.escape(path)}", f"]({name}", text)
    return text


def method_page(name: str) -> str:
    """Return the page of a plugin: its docstring, options and presets."""
    plugin = get_plugin(name)
    title, _, body = (inspect.getdoc(plugin) or "").partition("\n")
    hooks = ", ".join(f"`{hook}`" for hook in plugin.hooks())
    facts = {"Paper": _cell(plugin.paper), "Hooks": hooks}
    if "Cost:" not in body:
        facts["Cost"] = _cell(plugin.cost)
    lines = [f"# {name}", "", f"**{_cell(title)}**", ""]
    lines += [f"- {fact}: {value}" for fact, value in facts.items() if value]
    # Deviations from the paper get a paragraph of their own: they are what a reader looks for.
    text = _markdown(body.strip()).replace(" Deviations:", "\n\nDeviations:")
    text = text.replace("testbed/README.md", "[the test bench](../testbed.md)")
    lines += ["", "## How it works", "", LABEL.sub(r"**\1\2**", text), "", *_options(plugin)]
    lines += ["", "## Use", "", *_use(name, plugin)]
    presets = [
        f"| `{found}` | {_cell(preset.family)} | {_cell(preset.source)} |"
        for found, preset in ((found, read_preset(found)) for found in shipped_presets())
        if name in {item.name for item in preset.plugins}
    ]
    if presets:
        lines += ["", "## Presets", "", "| preset | family | source |", "| --- | --- | --- |"]
        lines += presets
    return "\n".join(lines) + "\n"


def _options(plugin: type[Plugin]) -> list[str]:
    fields = dataclasses.fields(plugin)
    if not fields:
        return ["It has no options."]
    rows = ["## Options", "", "| option | default | values | what it is |", "| --- " * 4 + "|"]
    for field in fields:
        about = field.metadata
        values = ""
        if about.get("choices"):
            values = ", ".join(f"`{choice}`" for choice in about["choices"])
        elif about.get("low") is not None or about.get("high") is not None:
            values = f"{about.get('low')} to {about.get('high')}"
        help_text = _cell(about.get("help", ""))
        rows.append(f"| `{field.name}` | `{field.default}` | {values} | {help_text} |")
    return rows


def _use(name: str, plugin: type[Plugin]) -> list[str]:
    numbers = [
        field for field in dataclasses.fields(plugin) if isinstance(field.default, (int, float))
    ]
    shown = next((field for field in numbers if not isinstance(field.default, bool)), None)
    asked = f"{name}:{shown.name}={shown.default}" if shown else name
    return [
        "```python",
        f'with vlmheads.attach(model, "{asked}"):',
        "    output = model.generate(**inputs)",
        "```",
        "",
        "```shell",
        f"vlmheads caption photo.jpg --plugin {asked}",
        "```",
    ]


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
        rows.append(f"| [`vlmheads.{name}`]({link}) | {_cell(about)} |")
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


def _filled(entry: Any, made: list[str]) -> Any:
    """Replace "folder/*" in a part of the navigation by the pages made in that folder."""
    if isinstance(entry, dict):
        return {title: _filled(part, made) for title, part in entry.items()}
    if not isinstance(entry, list):
        return entry
    parts: list[Any] = []
    for part in entry:
        if isinstance(part, str) and part.endswith("/*"):
            parts += [path for path in made if path.startswith(part[:-1])]
        else:
            parts.append(_filled(part, made))
    return parts


def _markdown(text: str) -> str:
    """Return a docstring's words as Markdown: what looks like markup there is none."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([*<\[\]_|])", r"\\\1", piece)
        for piece in pieces
    )


def _cell(text: str) -> str:
    """Return words as a cell of a table."""
    return _markdown(" ".join(text.split()))
