"""Hold every entry of the mapping to the checks, and write what came of it.

python tests/families/report.py [MODEL_TYPE ...] [--out results.json]
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from build import entries
from case import BrokenError, Case
from checks import CHECKS
from inputs import row_of
from table import ROWS

from vlmheads import VlmHeadsError


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"[:200]


def judge(model_type: str, names: tuple[str, ...] = tuple(CHECKS)) -> dict[str, str]:
    """Check -> "pass", "refused: ...", "FAIL: ..." or "CRASH: ..."; or why there is no model."""
    if why := row_of(model_type).why:
        return {"model": f"none: {why}"}
    case = Case(model_type)
    found = {"model": "pass"}
    try:
        case.before("row 0")
        if "batch" in names:
            case.before("batch")
            found["model"] += "" if case.padded else " (upstream: padding changes rows)"
    except Exception as error:  # whatever upstream raises is the answer
        return {"model": f"none: {first_line(error)}"}
    for name in names:
        try:
            CHECKS[name](case)
            found[name] = "pass"
        except VlmHeadsError as error:
            found[name] = f"refused: {error.seen}"
        except BrokenError as error:
            found[name] = f"FAIL: {error}"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            found[name] = f"CRASH: {first_line(error)} ({Path(place.filename).name}:{place.lineno})"
        if name == "attach" and found[name] != "pass":
            break
    return found


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    out = None
    if "--out" in arguments:
        at = arguments.index("--out")
        out = Path(arguments[at + 1])
        del arguments[at : at + 2]
    results: dict[str, Any] = {}
    for model_type in arguments or sorted({*entries(), *ROWS}):
        start = time.perf_counter()
        results[model_type] = found = judge(model_type)
        bad = {name: text for name, text in found.items() if text != "pass"}
        seconds = time.perf_counter() - start
        say(f"{model_type} ({seconds:.1f} s): {'all pass' if not bad else ''}")
        for name, text in bad.items():
            say(f"    {name}: {text}")
    if out is not None:
        versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        out.write_text(json.dumps({"versions": versions, "entries": results}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
