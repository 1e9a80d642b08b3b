"""What is known about one method, each thing from the one place where it stands.

The docstring says what the method is; its code which sites it acts on; benchmarks/results/ and the
tables of docs/methods.md and docs/performance.md what was measured; eval what can be learned.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from block import EDITED, READ, SITES
from linking import slug
from vlmheads_eval.compare.verdict import labelled
from vlmheads_eval.learn.methods import METHODS
from vlmheads_eval.report.tables import shown, signed

from vlmheads.plugin import Plugin
from vlmheads.registry import Preset, get_plugin, list_plugins, read_preset, shipped_presets

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LABELS = ("Source", "Deviations", "Our reading", "Needs", "Pitfalls", "Cost", "Evidence")
_LABEL = re.compile(rf"({'|'.join(LABELS)}): ")
# Names under which comparisons of published captions speak of a method, where they are not its own.
_ALSO = {"devils": "Devils|HGAI"}
_CELL = re.compile(r"(?<!\\)\|")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a document: the heading that it stands under, its head and its rows."""

    heading: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run of a method beside the plain one: figures as text, "plain → run"."""

    scenes: str
    run: str
    hallucination: str
    recall: str
    change: str
    verdict: str
    link: str


def parts(plugin: type[Plugin]) -> dict[str, list[str]]:
    """Return a docstring by its labels: "" is the summary and "Formula" what follows it.

    A paragraph without a label belongs to the label before it.
    """
    summary, *paragraphs = re.split(r"\n\n+(?=\S| {4}\S)", inspect.getdoc(plugin) or "")
    found: dict[str, list[str]] = {"": [summary], "Formula": []}
    label = "Formula"
    for paragraph in paragraphs:
        if match := _LABEL.match(paragraph):
            label = match[1]
        found.setdefault(label, []).append(paragraph[match.end() :] if match else paragraph)
    return found


@cache
def sites(plugin: type[Plugin]) -> dict[str, str]:
    """Return the sites that a method acts on, and whether it edits there or only reads.

    A hook that returns what it was given, in every case, reads. A second stream is a site of its
    own, and what is declared without being on by default is there, too.
    """
    found = {}
    for hook in plugin.hooks():
        found[hook.removeprefix("on_")] = READ if _only_reads(getattr(plugin, hook)) else EDITED
    if plugin.streams is not Plugin.streams:
        found["stream"] = EDITED
    return {site: found[site] for site in SITES if site in found}


def _only_reads(hook: Any) -> bool:
    function = ast.parse(textwrap.dedent(inspect.getsource(hook))).body[0]
    assert isinstance(function, ast.FunctionDef)
    given = {argument.arg for argument in function.args.args}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in given:
            return False
        if isinstance(node, ast.Return) and node.value is not None:
            names = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            if not all(isinstance(name, ast.Name) and name.id in given for name in names):
                return False
    return True


def strength(plugin: type[Plugin]) -> dataclasses.Field[Any] | None:
    """Return the option that a reader would change first: the first that is a number."""
    numbers = [
        field
        for field in dataclasses.fields(plugin)
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
    ]
    return numbers[0] if numbers else None


def learned(name: str) -> str | None:
    """Return the option that takes what `vlmheads learn` makes for a method, if there is one."""
    if name not in METHODS:
        return None
    options = [
        field.name
        for field in dataclasses.fields(get_plugin(name))
        if field.metadata.get("kind") == "learned"
    ]
    return options[0]


@cache
def names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(list_plugins())


@cache
def contrasting() -> tuple[str, ...]:
    """Return the methods that contrast the logits with those of a second stream."""
    wanted = {"stream", "logits"}
    return tuple(name for name in names() if wanted <= sites(get_plugin(name)).keys())


@cache
def presets() -> Mapping[str, Preset]:
    """Return every shipped preset by its name."""
    return {name: read_preset(name) for name in shipped_presets()}


def rivals(name: str) -> list[str]:
    """Return the methods that cannot be attached beside this one: both contrast two streams."""
    return [other for other in contrasting() if other != name] if name in contrasting() else []


@cache
def tables(document: str) -> tuple[Table, ...]:
    """Return the tables of a document of docs/."""
    found: list[Table] = []
    heading, rows = "", []
    for line in [*(ROOT / "docs" / document).read_text("utf-8").splitlines(), ""]:
        if line.startswith("|"):
            rows.append(tuple(part.strip() for part in _CELL.split(line)[1:-1]))
            continue
        if len(rows) > 2:
            found.append(Table(heading, rows[0], tuple(rows[2:])))
        rows = []
        if line.startswith("#"):
            heading = line.lstrip("# ")
    return tuple(found)


def published(name: str) -> Iterator[tuple[str, ...]]:
    """Yield the rows of docs/evidence.md about captions of this method.

    Captions, model, images, CHAIR_S and recall of the baseline and the method, CHAIR_S at equal
    recall, verdict.
    """
    also = re.compile(rf"({_ALSO.get(name, name)})\b(?!.* with (typo|TAME))", re.IGNORECASE)
    for one in _read("evidence.json")["comparisons"]:
        if one["listed"] and also.match(one["label"]) and "(with " not in one["label"]:
            before, after = one["figures"]
            yield (
                f"{one['label']}; baseline {one['kinds'][0]}",
                one["model"],
                str(one["images"]),
                *(f"{shown(before[key])} → {shown(after[key])}" for key in ("CHAIRs", "recall")),
                signed(one["at_recall"]),
                labelled(one),
            )


def measured(name: str) -> Iterator[Measured]:
    """Yield what this project measured: first what results hold, then tables of docs/methods.md."""
    for file in sorted(RESULTS.glob("effect-*.json")):
        yield from _results(file.name, name)
    for table in tables("methods.md"):
        yield from _listed(table, name)


def _results(file: str, name: str) -> Iterator[Measured]:
    """Yield the first setting of a method on each kind of scenes in a result."""
    result = _read(file)
    for split, found in result["splits"].items():
        figures = {run["name"]: run["overall"] for run in found["runs"]}
        first = [one for one in found["methods"] if one["name"].split()[0] == name][:1]
        for one in first:
            before, after = figures["plain"], figures[one["name"]]
            yield Measured(
                f"{Path(result['model']).name}, {found['images']} {split} (seed {result['seed']})",
                one["name"],
                f"{shown(before['CHAIRs'])} → {shown(after['CHAIRs'])}",
                f"{shown(before['recall'])} → {shown(after['recall'])}",
                signed(one["at_recall"]["CHAIRs"]),
                labelled(one).replace("-;", "no verdict;").removeprefix("-") or "no verdict",
                "effect.md",
            )


def _listed(table: Table, name: str) -> Iterator[Measured]:
    """Yield the rows of a table of runs that are about a method, each beside its plain row."""
    head = [title.lower() for title in table.head]
    if "verdict" not in head or "chair_s" not in head:
        return
    change = next(n for n, title in enumerate(head) if "equal recall" in title)
    scenes = head.index("scenes") if "scenes" in head else None
    model = "smol" if "smol" in head[0] else "embedded"
    plain: Mapping[str, Sequence[str]] = {}
    for row in table.rows:
        split = row[scenes] if scenes is not None else "test"
        if row[0] == "plain":
            plain = {**plain, split: row}
        elif row[0].startswith(f"`{name}`") and split in plain:
            levels = [
                f"{plain[split][head.index(key)]} → {row[head.index(key)]}"
                for key in ("chair_s", "recall")
            ]
            run = row[0].replace("`", "")
            place = f"methods.md#{slug(table.heading)}"
            bare = row[change].replace("**", "")
            yield Measured(f"{model}, {split}", run, *levels, bare, row[-1], place)


def cost(name: str) -> Iterator[tuple[str, ...]]:
    """Yield a method's rows of the table of docs/performance.md, one for each model.

    The setting, the model, and the ratios of a whole call, decoding, the prefill and memory.
    """
    others = set(names()) - {name}
    (table, place) = next(
        (table, place)
        for table in tables("performance.md")
        for place, row in enumerate(table.rows)
        if row[0] == "plugin" and "whole" in row
    )
    # A cell of the head spans the empty ones after it: a model and its columns.
    models = {title: at for at, title in enumerate(table.head) if title}
    columns = table.rows[place]
    for row in table.rows[place + 1 :]:
        run = row[0].strip("`")
        if run != name and (run in others or not run.startswith(f"{name}-")):
            continue
        for model, at in models.items():
            ratios = (
                row[columns.index(title, at)] for title in ("whole", "decode", "prefill", "memory")
            )
            yield (f"`{variant(run)}`", model, *(ratio.strip("*") for ratio in ratios))


def variant(run: str) -> str:
    """Return the setting that a name of the table of costs stands for, as the document says."""
    text = (ROOT / "docs" / "performance.md").read_text("utf-8")
    found = re.search(rf"`{re.escape(run)}` is `([^`]+)`", text)
    return found[1] if found else run


@cache
def _read(file: str) -> Any:
    return json.loads((RESULTS / file).read_bytes())
