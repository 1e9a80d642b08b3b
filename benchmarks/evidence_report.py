"""The tables and the figure of docs/evidence.md, from what benchmarks/evidence.py found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmheads_eval.compare.verdict import VERDICTS
from vlmheads_eval.report.tables import markdown, shown, signed
from vlmheads_eval.report.terminal import Rows

HEAD = [
    *("method", "model", "images", "CHAIR_S", "CHAIR_I", "recall", "F1", "words"),
    *("flags", "S at equal recall", "verdict"),
]
# Label of a comparison -> its name in the figure, and where the name stands, in points.
NAMED = {
    "AdaIAT (a 6, b 0.5)": ("AdaIAT", (6, -12)),
    "HALC, three seeds pooled": ("HALC on LLaVA-1.5", (-50, -18)),
    "MARINE (guidance 0.7)": ("MARINE", (7, 5)),
    "DeCo": ("DeCo against sampling", (-24, -13)),
    "DeCo against OPERA's greedy (cross-repository)": ("DeCo against greedy", (-100, 32)),
    "VCD with typo contrast": ("VCD with typos", (7, 5)),
}


def write(result: Mapping[str, Any], document: Path) -> list[Path]:
    """Write the document's generated blocks and its figure, and return the files."""
    text = document.read_text("utf-8")
    blocks = {
        "table": markdown(table(result), ours=True),
        "null": markdown(null(result), ours=True),
        "summary": summary(result),
    }
    for name, content in blocks.items():
        mark = f"<!-- evidence: {name} -->\n"
        if mark not in text:
            raise SystemExit(f"{document} has no block {name!r}")
        before, _, rest = text.partition(mark)
        after = rest.partition("<!-- end -->\n")[2]
        text = f"{before}{mark}{content}<!-- end -->\n{after}"
    document.write_text(text, "utf-8")
    picture = document.parent / "images" / "evidence.svg"
    picture.write_text(figure(result), "utf-8")
    return [document, picture]


def listed(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the comparisons of the manifest, without the one that is another reversed."""
    return [
        one
        for one in result["comparisons"]
        if one["listed"] and not one["label"].startswith("reversed")
    ]


def table(result: Mapping[str, Any]) -> Rows:
    """Return a row per comparison of the manifest: figures of the baseline, then of the method."""
    rows = [HEAD]
    group = ""
    for one in listed(result):
        if one["group"] != group:
            group = one["group"]
            rows.append([f"**{group}**", *[""] * (len(HEAD) - 1)])
        rows.append(_row(one, one["label"]))
    return rows


def null(result: Mapping[str, Any]) -> Rows:
    """Return a row per comparison of two plain runs that were decoded greedily."""
    rows = [["runs", "images", "CHAIR_S", "CHAIR_S diff.", "recall diff.", HEAD[-2], HEAD[-1]]]
    for one in result["comparisons"]:
        if is_null(result, one):
            rows.append(
                [
                    f"`{one['method'][0]}` against `{one['baseline'][0]}`",
                    str(one["images"]),
                    _both(one, "CHAIRs", "%"),
                    signed(one["difference"]["CHAIRs"]),
                    signed(one["difference"]["recall"]),
                    signed(one["at_recall"]),
                    one["verdict"],
                ]
            )
    return rows


def is_null(result: Mapping[str, Any], one: Mapping[str, Any]) -> bool:
    """Return whether both sides are greedy runs of one model on the same images and no method."""
    methods = [
        result["files"][name]["method"].lower() for name in (*one["baseline"], *one["method"])
    ]
    return all(method.startswith("greedy") for method in methods)


def summary(result: Mapping[str, Any]) -> str:
    """Return how many comparisons have which verdict."""
    lines = []
    for title, some in (
        ("of the table", listed(result)),
        ("of all", result["comparisons"]),
    ):
        counts = [
            f"{sum(one['verdict'] == verdict for one in some)} {verdict}" for verdict in VERDICTS
        ]
        flagged = sum(bool(one["flags"]) for one in some)
        better = sum(bool(one["flags"]) and one["verdict"] == VERDICTS[0] for one in some)
        lines.append(
            f"* {len(some)} comparisons {title}: {'; '.join(counts)}. {flagged} have a flag, "
            f"{better} of those *better*.\n"
        )
    return "".join(lines)


def _row(one: Mapping[str, Any], label: str) -> list[str]:
    kind = one["kinds"][0]
    return [
        f"{label}; baseline {kind}",
        one["model"],
        str(one["images"]),
        *(_both(one, name, "%") for name in ("CHAIRs", "CHAIRi", "recall", "object_f1")),
        _both(one, "words", ""),
        ", ".join(f"{flag['name']} {_value(flag)}" for flag in one["flags"]),
        signed(one["at_recall"]),
        one["verdict"] + "".join(f"; {flag['name']}" for flag in one["flags"]),
    ]


def _both(one: Mapping[str, Any], name: str, unit: str) -> str:
    return " → ".join(shown(figures[name], unit) for figures in one["figures"])


def _value(flag: Mapping[str, Any]) -> str:
    if flag["name"] == "much longer":
        return f"x {1 + flag['difference']['value']:.1f}"
    return f"{100 * flag['baseline']:.1f} → {100 * flag['value']:.1f} %"


def figure(result: Mapping[str, Any]) -> str:
    """Draw every comparison by its differences in recall and CHAIR_S, marked by its verdict."""
    from vlmheads.plotting import drawing
    from vlmheads.plotting.palette import LIGHT, style_sheet

    canvas, axes = drawing.new_figure(8.4, 5.6, LIGHT, "")
    for line in (axes.axhline, axes.axvline):
        line(0, color=LIGHT.muted, linewidth=1.2, zorder=1)
    for position, verdict in enumerate(VERDICTS, start=1):
        some = [one for one in result["comparisons"] if one["verdict"] == verdict]
        places = [_place(one) for one in some]
        look = drawing.mark(position, LIGHT)
        axes.plot(
            [x for x, _ in places],
            [y for _, y in places],
            **look,
            linestyle="none",
            label=f"{verdict} ({len(some)})",
            zorder=3,
        )
        flagged = [_place(one) for one in some if one["flags"]]
        axes.plot(
            [x for x, _ in flagged],
            [y for _, y in flagged],
            linestyle="none",
            marker="o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor=LIGHT.unsupported,
            label="has a flag" if position == len(VERDICTS) else "_",
            zorder=2,
        )
    for one in result["comparisons"]:
        if one["label"] in NAMED and one["listed"] and one["model"] != "mPLUG-Owl2":
            name, offset = NAMED[one["label"]]
            axes.annotate(
                name,
                _place(one),
                offset,
                textcoords="offset points",
                fontsize=8,
                color=LIGHT.text,
            )
    axes.set(
        xlabel="recall, points above the baseline", ylabel="CHAIR_S, points above the baseline"
    )
    drawing.legend(canvas, axes, LIGHT)
    alone = drawing.as_svg(canvas, "Comparisons by their differences in recall and CHAIR_S")
    return _as_file(alone, style_sheet())


def _place(one: Mapping[str, Any]) -> tuple[float, float]:
    return (
        100 * (one["difference"]["recall"]["value"] or 0),
        100 * (one["difference"]["CHAIRs"]["value"] or 0),
    )


def _as_file(element: str, style: str) -> str:
    """Return an SVG element as a file of its own that is light or dark as its reader likes."""
    named = element.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return re.sub(r"(<svg[^>]*>)", rf"\1<style>{style}</style>", named, count=1) + "\n"
