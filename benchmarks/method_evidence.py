"""What is known about each method, a line each, for the page of the demo.

Run: python benchmarks/method_evidence.py
It reads benchmarks/results/ and writes
demo/vlmheads_demo/assets/evidence.json: model -> plugin -> a mark and a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effect_beside import REPORTED
from effect_report import defaults
from vlmheads_eval.compare.verdict import SAYS_LESS, SAYS_MORE
from vlmheads_eval.statistics import BETTER, WORSE

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OUT = ROOT / "demo" / "vlmheads_demo" / "assets" / "evidence.json"
# What a split of the test bench holds.
SCENES = {"val": "typical scenes", "test": "typical scenes", "counterfactual": "odd scenes"}
BENCHES = {"embedded": "effect-embedded-choose.json", "smol": "effect-smol.json"}
# Plugin -> group and label of a comparison in evidence.json.
PUBLISHED = {
    "adaiat": ("AdaIAT", "AdaIAT (a 6, b 0.5)"),
    "deco": ("vlm-decoding-hal (DeCo fork)", "DeCo against OPERA's greedy (cross-repository)"),
    "devils": ("Devils", "Devils heads-guided (HGAI) (alpha 0.5, layers 5-19)"),
    "dola": ("Efficient-HA", "DoLa against OPERA's greedy (cross-repository)"),
    "iat": ("AdaIAT", "IAT (0.8)"),
    "pai": ("AdaIAT", "PAI (0.5)"),
    "paint": (
        "PAINT (against its weakest setting)",
        "PAINT (top token ratio 0.2 alpha 0.7 beta 0.4 cfg 1.1)",
    ),
    "vcd": ("less-is-more uploads", "VCD"),
}
HARMFUL = "harmful"
MUCH = -10.0  # An object F1 that is surely this many points lower is harm, whatever the verdict.
RANGE = "{value:+.1f}, {low:+.1f} to {high:+.1f}"
SHORT = {
    HARMFUL: HARMFUL,
    BETTER: "better",
    WORSE: "worse",
    SAYS_LESS: "says less",
    SAYS_MORE: "says more",
}


def bench(result: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return a mark and a line of every plugin's default on one bench."""
    found: dict[str, list[tuple[str, str]]] = {}
    for split, part in result["splits"].items():
        verdicts = {method["name"]: method["verdict"] for method in part["methods"]}
        for name in defaults(part):
            change = _points(part["differences"][name]["object_f1"])
            verdict = (
                HARMFUL if change["high"] < MUCH else verdicts[name].replace("-", "no verdict")
            )
            text = f"{SCENES[split]}: {verdict} (object F1 {RANGE})".format(**change)
            found.setdefault(name.partition(" ")[0], []).append((verdict, text))
    images = next(iter(result["splits"].values()))["images"]
    return {plugin: _entry(parts, images) for plugin, parts in found.items()}


def _points(change: Mapping[str, float]) -> dict[str, float]:
    return {key: 100 * change[key] for key in ("value", "low", "high")}


def _entry(parts: list[tuple[str, str]], images: int) -> dict[str, str]:
    line = "; ".join(text for _, text in parts)
    return {
        "mark": _mark([verdict for verdict, _ in parts]),
        "line": f"{images} scenes of each kind. {line[0].upper()}{line[1:]}.",
    }


def _mark(verdicts: list[str]) -> str:
    """Return one word for verdicts on several kinds of scenes: mixed where they contradict."""
    told = dict.fromkeys(SHORT[verdict] for verdict in verdicts if verdict in SHORT)
    if not told:
        return "no difference shown"
    return " / ".join(told)


def published(comparisons: list[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield plugins with a mark and a line about captions of LLaVA-1.5-7B on photographs."""
    for plugin, (group, label) in PUBLISHED.items():
        (one,) = (
            c
            for c in comparisons
            if (c["group"], c["label"], c["model"]) == (group, label, "LLaVA-1.5-7B")
        )
        flags = "".join(f"; {flag['name']}" for flag in one["flags"])
        against = ", against another repository's greedy captions" if "cross" in label else ""
        yield (
            plugin,
            {
                "mark": SHORT.get(one["verdict"], "no difference shown"),
                "line": (
                    f"Published captions of LLaVA-1.5-7B ({one['images']} photographs{against}): "
                    f"{one['verdict']}{flags} (CHAIR_S at equal recall {RANGE})."
                ).format(**_points(one["at_recall"])),
            },
        )
    for plugin, text in REPORTED.items():
        if plugin not in PUBLISHED:
            yield (
                plugin,
                {
                    "mark": "reported only",
                    "line": f"Reported of LLaVA-1.5-7B, CHAIR_S/CHAIR_I without recall: {text}.",
                },
            )


def evidence() -> dict[str, Any]:
    """Return everything that is known, by model and plugin."""

    def read(name: str) -> Any:
        return json.loads((RESULTS / name).read_bytes())

    found = {model: bench(read(name)) for model, name in BENCHES.items()}
    found["published"] = dict(published(read("evidence.json")["comparisons"]))
    return {model: dict(sorted(lines.items())) for model, lines in found.items()}


if __name__ == "__main__":
    OUT.write_text(json.dumps(evidence(), indent=1) + "\n", "utf-8")
