"""What was tested of each family, on which version of transformers: coverage.json says.

The file is made from the report of tests/families by `python docs/tables.py --sweep REPORT`; nobody
edits it by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from vlmheads.model.families import Family, family_of

FILE = Path(__file__).with_name("coverage.json")
TESTED, PARTLY, REFUSED, UNTESTED = "tested", "partly tested", "refused", "not tested"
PADDING = "upstream: padding changes rows"
# What the checks of the sweep stand for, as a user knows it.
_CHECKS = {
    "attach": "attaching",
    "neutral": "neutral plugins",
    "neutral rows": "attention rows handed out",
    "neutral cache": "the cache handed out",
    "neutral vision": "the vision tower handed out",
    "neutral stream": "an extra stream",
    "heads": "head count and size",
    "scaling": "scaled heads",
    "rows": "attention rows",
    "text only": "text-only stream",
    "unembed": "unembedding (deco, dola, memvr, vista)",
    "edit heads": "edited heads",
    "edit rows": "edited attention rows",
    "edit cache": "edited cache",
    "edit vision": "edited vision tower",
    "edit attention": "edited attention outputs",
    "edit residual": "edited hidden states",
    "edit mlp": "edited MLP outputs",
    "edit logits": "edited logits",
    "vision": "edits of the vision tower",
    "ahead": "tokens generated ahead",
    "hiding": "streams with hidden keys",
    "beside": "edits beside another stream",
    "pixels": "streams with changed images (vcd, damro)",
    "batch": "padded batches",
    "detach": "detaching",
}


@dataclass(frozen=True)
class Coverage:
    """The outcome of one sweep over tiny random models.

    Args:
        transformers: the version that it ran on.
        torch: likewise.
        entries: entry -> check -> what came of it, where that is not a pass. An entry is a
            `model_type`, or a variant of one with another decoder, such as "internvl+qwen3".
    """

    transformers: str
    torch: str
    entries: Mapping[str, Mapping[str, str]]

    @classmethod
    def load(cls, file: Path = FILE) -> Self:
        """Read the file that is shipped, or another one."""
        return cls(**json.loads(file.read_text("utf-8")))

    def of(self, family: Family) -> tuple[str, str]:
        """Return the state of a family, and what there is to say of it, in one line."""
        if family.refusal:
            return REFUSED, family.refusal
        found = {
            name: outcome
            for name, outcome in self.entries.items()
            if name.partition("+")[0] in family.model_types
        }
        states = {name: _state(outcome) for name, outcome in found.items()}
        kinds = {state for state, _ in states.values()}
        if not kinds:
            return UNTESTED, ""
        details: dict[str, list[str]] = {}
        for name, (_, detail) in states.items():
            if detail:
                details.setdefault(detail, []).append(name)
        said = [
            (f"{', '.join(names)}: " if len(names) < len(found) else "") + detail
            for detail, names in details.items()
        ]
        return kinds.pop() if len(kinds) == 1 else PARTLY, "; ".join(said)

    def built(self, family: Family) -> list[str]:
        """Return the entries of a family of which a tiny random model was held to the checks."""
        return [
            name
            for name, outcome in self.entries.items()
            if name.partition("+")[0] in family.model_types
            and not {"model", "attach"} & {key for key, text in outcome.items() if text != PADDING}
        ]

    def state(self, model_type: str) -> tuple[str, str]:
        """Return what `of` returns of one model type of a family."""
        return self.of(replace(family_of(model_type), model_types=(model_type,)))


def _state(outcome: Mapping[str, str]) -> tuple[str, str]:
    """Return the state of one entry and what there is to say of it."""
    model, attach = outcome.get("model", ""), outcome.get("attach", "")
    if model and model != PADDING:
        return UNTESTED, model.removeprefix("none: ")
    if attach.startswith("refused: "):
        return REFUSED, attach.removeprefix("refused: ")
    wrong = {check: text for check, text in outcome.items() if check in _CHECKS}
    said = []
    for verb, chosen in (
        ("refused", [check for check, text in wrong.items() if text.startswith("refused")]),
        ("fails", [check for check, text in wrong.items() if not text.startswith("refused")]),
    ):
        if chosen:
            said.append(f"{verb}: {', '.join(_CHECKS[check] for check in chosen)}")
    if model == PADDING:
        said.append("padding changes rows, also without vlmheads")
    return PARTLY if wrong else TESTED, "; ".join(said)


def condensed(report: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return the entries of a Coverage from a report of tests/families: all but what passed."""
    made: dict[str, dict[str, str]] = {}
    for name, outcome in sorted(report.items()):
        unknown = set(outcome) - {"model", *_CHECKS}
        if unknown:
            raise ValueError(f"{name}: checks {sorted(unknown)} have no words in coverage.py")
        made[name] = {
            check: PADDING if PADDING in text else text
            for check, text in outcome.items()
            if text != "pass"
        }
    return made


def installed_entries() -> dict[str, str]:
    """Return model type -> class of all that the installed transformers calls image-text-to-text.

    The mapping is transformers' own table behind AutoModelForImageTextToText.
    """
    from transformers.models.auto import modeling_auto

    found: Any = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return {name: kind if isinstance(kind, str) else kind[0] for name, kind in found.items()}
