"""docs/effect.md from what benchmarks/effect.py saved: its tables, its figures and its findings.

The document's own prose stands between blocks such as `<!-- effect: test -->`...`<!-- end -->`,
which are written anew; everything else is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effect_settings import SETTINGS
from vlmheads_eval.compare.verdict import VERDICTS, labelled
from vlmheads_eval.report.tables import markdown, shown, signed
from vlmheads_eval.report.terminal import Rows

EMBEDDED = "embedded"
ALPHA = 0.05
FAR = -0.1  # Of object F1: below it a setting is left out of the figure of distances.
FIGURES = ("CHAIRi", "CHAIRs", "unique_hallucination", "recall", "object_f1")
TITLES = {
    "CHAIRi": "CHAIR_I",
    "CHAIRs": "CHAIR_S",
    "unique_hallucination": "unique-object rate",
    "recall": "recall",
    "object_f1": "object F1",
    "words": "words",
    "repetition": "repetition",
    "at_limit": "at limit",
}


def write(result: Mapping[str, Any], document: Path) -> list[Path]:
    """Write the document's blocks and its figures, and return the files.

    Blocks that the document does not have yet are put at its end. Those of another model than the
    embedded one begin with its name, so that one document can hold several models.
    """
    text = document.read_text("utf-8") if document.is_file() else "# What each method does\n"
    files = [document]
    whose = "" if result["model"] == EMBEDDED else f"{Path(result['model']).name} "
    blocks = {"setup": setup(result)}
    for split, found in result["splits"].items():
        blocks[f"findings {split}"] = findings(found)
        blocks[f"levels {split}"] = markdown(levels(found), ours=True)
        blocks[f"differences {split}"] = markdown(differences(found), ours=True)
        if found["random heads"]:
            blocks[f"random heads {split}"] = markdown(random_heads(found), ours=True)
        blocks[f"frontier {split}"] = markdown(cut(found), ours=True)
        files += figures(found, f"{whose}{split}", document.parent / "images")
    blocks["left out"] = left_out(result)
    for name, content in blocks.items():
        text = put(text, f"{whose}{name}", content)
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(text, "utf-8")
    return files


def put(text: str, name: str, content: str) -> str:
    """Write a block into a document's text, at its end if it is not there yet."""
    start, end = f"<!-- effect: {name} -->\n", "<!-- end -->\n"
    block = f"{start}{content}{end}"
    before, found, rest = text.partition(start)
    return before + block + rest.partition(end)[2] if found else f"{text}\n{block}"


def setup(result: Mapping[str, Any]) -> str:
    """What was run, and how long it took."""
    parts = []
    for split, found in result["splits"].items():
        captions = sum(one["captions"] for one in found["times"].values())
        cpu = sum(one["cpu"] for one in found["times"].values()) / 60
        wall = sum(one["wall"] for one in found["times"].values()) / 60
        parts.append(
            f"* {split}: {found['images']} images, {len(found['times'])} runs, {captions:.0f} "
            f"captions; {cpu:.0f} minutes of processor time, {wall:.0f} on the clock, added up "
            "over processes"
        )
    asked = result.get("prompt")
    source = result["learned from"]
    ranked = source.get("heads ranked by", "ablation")
    learned = ", ".join(
        source["folders"]
        if "folders" in source
        else (
            f"{source['scenes of each']} {split} scenes of seed {seed}"
            for split, seed in source["split and seed"].items()
        )
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join(
        [
            *parts,
            f"* model {result['model']}, greedy search, at most {result['max_new_tokens']} tokens, "
            f"batches of {result['batch_size']}, seed {result['seed']}"
            + (f', asked to "{asked}"' if asked else ""),
            f"* CHAIR variant `{result['variant']}`; 95 % intervals of {result['draws']} paired "
            "bootstrap draws over images",
            f"* learned from: {learned}; heads ranked by {ranked}",
            f"* {versions}; {result['machine']}, shared with other work",
            "",
        ]
    )


def _methods(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(found["methods"])


def defaults(found: Mapping[str, Any]) -> list[str]:
    """The run of each plugin that stands for its default: the first of its settings."""
    names = []
    for plugin, entries in SETTINGS.items():
        label = entries[0] if isinstance(entries[0], str) else entries[0][0]
        names.append(f"{plugin} {label}".strip())
    there = {method["name"] for method in found["methods"]}
    return [name for name in names if name in there]


def levels(found: Mapping[str, Any]) -> Rows:
    """Every run's figures in percent; words as they are."""
    names = (*FIGURES, "words", "repetition", "at_limit")
    rows = [["run", *(TITLES[name] for name in names), "same as plain"]]
    for run in found["runs"]:
        cells = [shown(run["overall"][name], "words" if name == "words" else "%") for name in names]
        rows.append([f"`{run['name']}`", *cells, f"{found['same as plain'][run['name']]:.0%}"])
    return rows


def differences(found: Mapping[str, Any]) -> Rows:
    """Every method less the plain model, in points, and its distance to cut captions."""
    names = ("CHAIRi", "CHAIRs", "unique_hallucination", "recall", "object_f1")
    rows = [
        [
            "run",
            *(f"{TITLES[name]} less plain" for name in names),
            "unique-object rate at equal recall",
            "object F1 at equal recall",
            "verdict",
        ]
    ]
    for method in _methods(found):
        at = found["at recall"][method["name"]]
        rows.append(
            [
                f"`{method['name']}`",
                *(marked(found["differences"][method["name"]][name]) for name in names),
                *(marked(at[name]) for name in ("unique_hallucination", "object_f1")),
                labelled(method),
            ]
        )  # fmt: skip
    return rows


def marked(found: Mapping[str, Any]) -> str:
    """A difference with its interval, in bold where Holm's correction leaves it."""
    return f"**{signed(found)}**" if _sign(found) else signed(found)


def random_heads(found: Mapping[str, Any]) -> Rows:
    """Methods that choose heads, against as many heads drawn at random."""
    names = ("CHAIRi", "unique_hallucination", "recall", "object_f1")
    rows = [
        [
            "run",
            "draws",
            *(f"random: {TITLES[name]}" for name in names),
            *(f"{TITLES[name]} less random" for name in names),
        ]
    ]
    for name, one in found["random heads"].items():
        rows.append(
            [
                f"`{name}`",
                str(one["draws"]),
                *(shown(one["figures"][rate], "%") for rate in names),
                *(marked(one["method less random"][rate]) for rate in names),
            ]
        )
    return rows


def cut(found: Mapping[str, Any]) -> Rows:
    """The plain captions cut after 1, 2, ... sentences."""
    rows = [["sentences", *(TITLES[name] for name in (*FIGURES, "words"))]]
    for point in found["frontier"]:
        cells = [
            shown(point[name], "words" if name == "words" else "%") for name in (*FIGURES, "words")
        ]
        rows.append([str(point["sentences"]), *cells])
    return rows


def findings(found: Mapping[str, Any]) -> str:
    """Who is better, worse or neither, by the tests that the tables show."""
    better: dict[str, list[str]] = {}
    for method in _methods(found):
        at = found["at recall"][method["name"]]
        if found["kinds"][method["name"]] != "method":
            continue
        changed = _sign(found["differences"][method["name"]]["object_f1"])
        beyond = _sign(at["object_f1"])
        better.setdefault({1: "higher", 0: "same", -1: "lower"}[changed], []).append(method["name"])
        better.setdefault({1: "above", 0: "on", -1: "below"}[beyond], []).append(method["name"])
        better.setdefault(method["verdict"], []).append(method["name"])
    lines = [
        ("Object F1 higher than plain", "higher"),
        ("Object F1 not distinguishable from plain", "same"),
        ("Object F1 lower than plain", "lower"),
        ("Object F1 above plain captions cut to the same recall", "above"),
        ("Object F1 below them", "below"),
        *((f"CHAIR verdict {verdict}", verdict) for verdict in VERDICTS[:-1]),
    ]
    text = "".join(f"* {title} ({len(better.get(k, []))}): {_names(better.get(k, []))}\n"
                   for title, k in lines)  # fmt: skip
    if not found["random heads"]:
        return text
    beaten: list[str] = []
    not_beaten: list[str] = []
    for name, one in found["random heads"].items():
        sign = _sign(one["method less random"]["object_f1"])
        (beaten if sign > 0 else not_beaten).append(name)
    text += f"* Object F1 above random heads with the same gain: {_names(beaten)}; not above: "
    return text + f"{_names(not_beaten)}\n"


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _sign(found: Mapping[str, Any]) -> int:
    """1 above 0 and -1 below after Holm's correction, else 0."""
    if found["value"] is None or found["holm"] is None or found["holm"] >= ALPHA:
        return 0
    return 1 if found["value"] > 0 else -1


def left_out(result: Mapping[str, Any]) -> str:
    """Runs that were refused, with the reason, and runs that are not there."""
    lines = []
    for split, found in result["splits"].items():
        lines += [f"* {split}, `{name}`: {why}" for name, why in found["refused"].items()]
        if found["missing"]:
            lines.append(f"* {split}, not run: {_names(found['missing'])}")
    return "\n".join(lines or ["* No method was refused, and none is missing."]) + "\n"


def figures(found: Mapping[str, Any], title: str, folder: Path) -> list[Path]:
    """Draw the defaults that are off the frontier, and the object-F1 distances to it.

    The title, a split behind the model's name, names the files, too.
    """
    from vlmheads.plotting.figures import Interval, Run, frontier_figure, intervals_figure

    folder.mkdir(parents=True, exist_ok=True)
    runs = {run["name"]: run for run in found["runs"]}

    def reach(name: str, rate: str) -> Interval:
        low, high = runs[name]["intervals"][rate]
        value = runs[name]["overall"][rate]
        return Interval(*(100 * number for number in (low, value, high)))

    rate = "object_f1"
    points = [
        (100 * point["recall"], 100 * point[rate], point["sentences"])
        for point in found["frontier"]
    ]
    plain = found["baseline"]
    at = {name: one[rate] for name, one in found["at recall"].items()}
    # One that names next to nothing would push all others into a corner.
    least = runs[plain]["overall"]["recall"] / 2
    broken = [name for name in defaults(found) if runs[name]["overall"]["recall"] < least]
    whole = [name for name in defaults(found) if name not in broken]
    off = [name for name in whole if _sign(at[name])]
    notes = []
    if len(whole) > len(off):
        notes.append(f"methods not told from the line, not drawn: {len(whole) - len(off)}")
    if broken:
        notes.append(f"at less than half of plain's recall, not drawn: {', '.join(broken)}")
    title_shown = "\n".join([f"{title} scenes", *notes])
    drawn = {
        position: Run(name, reach(name, "recall"), reach(name, rate))
        for position, name in enumerate([plain, *off])
    }
    figure = frontier_figure(
        points, drawn, "recall %", "object F1 %", title=title_shown, legend=False
    )
    figure.set_size_inches(8.4, 6.4)
    axes = figure.axes[0]
    for run in drawn.values():
        axes.annotate(
            run.name,
            (run.across.value, run.along.value),
            (6, 4),
            textcoords="offset points",
            fontsize=7.5,
        )
    stem = f"effect-{title.replace(' ', '-')}"
    first = folder / f"{stem}.svg"
    figure.savefig(first, metadata={"Date": None})
    shown_at = {name: one for name, one in at.items() if one["value"] is not None}
    far = [name for name, one in shown_at.items() if one["value"] < FAR]
    labels = sorted(shown_at.keys() - far, key=lambda name: (-shown_at[name]["value"], name))
    spans = [
        Interval(*(100 * shown_at[name][key] for key in ("low", "value", "high")))
        for name in labels
    ]
    aside = f"settings lower by more than {-100 * FAR:.0f} points, not drawn: {len(far)}"
    second = folder / f"{stem}-at-recall.svg"
    intervals_figure(
        labels,
        {"object F1 less that of cut captions": spans},
        "points of object F1, at equal recall",
        title="\n".join([f"{title} scenes", *([aside] if far else [])]),
    ).savefig(second, metadata={"Date": None})
    return [first, second]
