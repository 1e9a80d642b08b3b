"""Part a: what plugins promise, in half precision and under each attention kernel, on tiny models.

Every run of a model writes the same tokens, so that logits can be compared step by step.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import torch
from gpu_part import Part
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlmheads import VlmHeadsError
from vlmheads.verify.checks import NOISE, TOLERANCE, examine_subject
from vlmheads.verify.probes import HeadProbe, RowProbe
from vlmheads.verify.subject import ROWS, Subject, gap

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
active, tiny = (import_module(name) for name in ("active", "tiny"))  # not of any package

FAMILIES = (
    *("llava", "llava-gqa", "llava_next", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3"),
    "mistral3",
)
LENGTHS = (3, 7)
TOKENS = 4
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def subject(family: str, device: str, dtype: torch.dtype) -> Subject:
    """The tiny model of a family with two prompts, alone and as a padded batch."""
    model = copy.deepcopy(tiny.build(family)).to(device, dtype)
    given = {row: tiny.row(family, LENGTHS, index) for index, row in enumerate(ROWS)}
    given["batch"] = tiny.inputs(family, LENGTHS)
    moved = {
        name: {
            key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for key, value in inputs.items()
        }
        for name, inputs in given.items()
    }
    return Subject(model, moved, TOKENS)


def checked(case: Subject, name: str, family: str) -> dict[str, Any]:
    """What a plugin does on a model: without effect, in a padded batch, and afterwards."""
    plain = case.plain("row 0")
    padded = max(
        gap(case.plain("batch")[:, [index]], case.plain(row)) for index, row in enumerate(ROWS)
    )
    neutral = case.run("row 0", active.contract_plugins()[name].neutral())
    plugin = active.make(name, family)
    together = case.run("batch", plugin)
    alone = [case.run(row, plugin) for row in ROWS]
    batch = max(gap(together[:, [index]], one) for index, one in enumerate(alone))
    return {
        "neutral is bit-identical": torch.equal(neutral, plain),
        "detached is bit-identical": torch.equal(case.run("row 0"), plain),
        "leaves numbers": not bool(alone[0].isnan().any()),
        "acts": gap(alone[0], plain) > 0,
        "batch against alone": batch,
        "plain batch against alone": padded,
    }


def kernels(case: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows by hand against the model's own attention, under each kernel that is there."""
    for name, kernel in KERNELS.items():
        yield name, _rows(case, partial(sdpa_kernel, kernel))
    case.model.set_attn_implementation("flex_attention")
    yield "flex", _rows(case, nullcontext)
    case.model.set_attn_implementation("sdpa")


def _rows(case: Subject, within: Callable[[], Any]) -> dict[str, Any]:
    try:
        with within():
            plain = case.run("row 0")
            rows = case.run("row 0", RowProbe(by_hand=True))
            heads = case.run("row 0", HeadProbe())
    except Exception as error:  # a kernel that a machine or a model does not have
        return {"refused": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    return {"rows by hand are off by": gap(rows, plain), "idle heads": torch.equal(heads, plain)}


def contract(part: Part) -> dict[str, Any]:
    """Run part a, plugin after plugin over all families, until the time is up.

    A rehearsal has two families, one precision and every seventh plugin.
    """
    found: dict[str, Any] = {
        "verify": {},
        "kernels": {},
        "plugins": {},
        "broken": [],
        "to look at": [],
        "cut": 0,
    }
    families = FAMILIES[:4:3] if part.few else FAMILIES
    dtypes = [torch.bfloat16] if part.few else [torch.bfloat16, torch.float16]
    names = list(active.contract_plugins())[:: 7 if part.few else 1]
    cases = {
        (family, dtype): subject(family, part.device, dtype)
        for family, dtype in product(families, dtypes)
    }
    for (family, dtype), case in cases.items():
        place = f"{family}, {str(dtype).removeprefix('torch.')}"
        if part.late:
            found["cut"] += 1
            continue
        findings = list(examine_subject(case))
        states = Counter(finding.state for finding in findings)
        failed = [finding.to_dict() for finding in findings if finding.state == "FAIL"]
        found["verify"][place] = {**states, "failed": failed}
        found["kernels"][place] = dict(kernels(case)) if part.device == "cuda" else {}
        part.keep(found)
    for name, (family, dtype) in product(names, cases):
        if part.late:
            found["cut"] += 1
            continue
        place = f"{name} on {family}, {str(dtype).removeprefix('torch.')}"
        try:
            result = checked(cases[family, dtype], name, family)
        except VlmHeadsError as error:
            result = {"refused": str(error)}
        except Exception as error:  # a crash is a finding, and no reason to stop
            result = {"crashed": f"{type(error).__name__}: {error}"}
        found["plugins"][place] = result
        if "crashed" in result or any(value is False for value in result.values()):
            found["broken"].append(place)
        # A choice between heads, layers or tokens may fall the other way by rounding alone: that is
        # to be looked at, and no verdict.
        off, plain = (result.get(f"{name}batch against alone", 0) for name in ("", "plain "))
        if off > max(TOLERANCE[dtype], NOISE * plain):
            found["to look at"].append(f"{place}: a padded batch is off by {off:.2g}")
    part.keep(found)
    return found
