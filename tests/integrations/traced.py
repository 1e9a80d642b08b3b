"""nnsight beside attach(); test_nnsight.py runs it, since nnsight gives every object a `.save`."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnsight import NNsight
from torch import Tensor
from vlmheads_testbed.scenes import scene

from vlmheads import Captioner, attach

captioner = Captioner.from_pretrained("embedded", ())
model: Any = captioner.model
inputs = captioner.prepare([scene("counterfactual", 0, 0).image])
layer = model.model.language_model.layers[5]
traced: Any = NNsight(model)
block = traced.model.language_model.layers[5]
GREEDY = {"max_new_tokens": 4, "do_sample": False}


def logits() -> Tensor:
    """What the model says without a trace."""
    found: Tensor = model(**inputs).logits
    return found


def caught(register: Callable[..., Any], place: int | None) -> tuple[list[Any], Tensor]:
    """What a hook that comes after all others sees in each pass, and the logits."""
    seen: list[Any] = []
    handle = register(lambda *given: seen.append(given[-1] if place is None else given[-1][place]))
    try:
        return seen, logits()
    finally:
        handle.remove()


def traced_logits() -> Tensor:
    with traced.trace(**inputs) as tracer:
        found = tracer.result.save()
    return found.logits


def edited() -> Tensor:
    with traced.trace(**inputs) as tracer:
        block.output[:] = block.output * 0.5
        found = tracer.result.save()
    return found.logits


found: dict[str, bool] = {}
with torch.no_grad():
    plain, plain_edited = logits(), edited()
    for plugin in ("vhr:alpha=4", "pai", "vcd", "cfg", "vista"):
        with attach(model, plugin):
            found[f"{plugin}: the result is the attached model's"] = torch.equal(
                traced_logits(), logits()
            )
        found[f"{plugin}: nothing stays"] = torch.equal(traced_logits(), plain)

    with attach(model, "vhr:alpha=4"):
        heads, acting = caught(layer.self_attn.o_proj.register_forward_pre_hook, 0)
        with traced.trace(**inputs) as tracer:
            for _ in tracer.iter[0]:
                first = block.self_attn.o_proj.input.save()
            for _ in tracer.iter[1]:
                second = block.self_attn.o_proj.input.save()
        found["vhr: its own pass is the first"] = torch.equal(first, heads[0])
        found["vhr: edited heads are seen in the second"] = torch.equal(second, heads[1])
        found["vhr: it acts"] = not torch.equal(acting, plain)
        with traced.trace(**inputs, **GREEDY, fn=model.generate) as tracer:
            ids = tracer.result.save()
        found["vhr: a traced generation"] = torch.equal(ids, model.generate(**inputs, **GREEDY))

    with attach(model, "pai"):
        handle = layer.register_forward_hook(lambda module, args, output: output * 0.5)
        expected = logits()
        handle.remove()
        found["pai: an edit of nnsight's and the plugin act together"] = torch.equal(
            edited(), expected
        ) and not torch.equal(expected, plain_edited)

    with attach(model, "vista"):
        states, _ = caught(layer.register_forward_hook, None)
        with traced.trace(**inputs) as tracer:
            for _ in tracer.iter[len(states) - 1]:
                state = block.output.save()
        found["vista: an edited residual is not seen in .output"] = not torch.equal(
            state, states[-1]
        )

    with attach(model, "vcd"):
        with traced.trace(**inputs):
            rows = traced.output.logits.save()
        found["vcd: the root's output has the rows of its stream"] = len(rows) == 2
runpy.run_path(str(Path(__file__).parents[2] / "docs" / "examples" / "trace_with_nnsight.py"))
sys.stdout.write(json.dumps(found))
