"""The scenes that the page offers, and the first of them, which is described before anyone asks."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from vlmheads_demo.services.captioning import describe, parse_request
from vlmheads_demo.services.methods import recommended_method
from vlmheads_demo.services.result import Result
from vlmheads_demo.services.strengths import Strengths, measure_strengths, strength_of
from vlmheads_demo.state import AppState

# Objects in the wrong place, then typical scenes. In the first, an airport, the embedded model
# expects an airplane.
SCENES = (
    *("counterfactual:47", "counterfactual:42", "counterfactual:21", "counterfactual:3"),
    *("test:6", "test:3", "test:1", "test:0"),
)


@dataclass(frozen=True, eq=False)
class Example:
    """The first scene, described: its run, and the recommended method at several strengths."""

    result: Result
    strengths: Strengths | None


def first_example(state: AppState) -> Example | None:
    """Describe the first scene with the default model, and keep the run for good.

    None for a model that is not a test bench: it may take minutes, and does not know drawings.
    """
    model = state.models.get(state.models.default)
    if not model.packaged:
        return None
    chosen = recommended_method(model.captioner.model)
    methods = [[chosen]] if chosen else []
    request = parse_request(state, scene=SCENES[0], methods=methods)
    lock, stop = state.models.run_lock, threading.Event()
    *_, result = describe(request, run_lock=lock, stop=stop)
    assert isinstance(result, Result)
    state.results.keep(result)
    strengths = None
    if request.methods and strength_of(request.methods[0]) is not None:
        *_, strengths = measure_strengths(request, request.methods[0], run_lock=lock, stop=stop)
    return Example(result, strengths)
