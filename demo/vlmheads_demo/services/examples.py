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
# Seconds that the start of the server waits for the first scene to be described.
PATIENCE = 10.0


@dataclass(frozen=True, eq=False)
class Example:
    """The first scene, described: its run, and the recommended method at several strengths."""

    result: Result
    strengths: Strengths | None


class FirstExample:
    """Describes the first scene with the default model, in a thread of its own.

    A model that is not a test bench gets none: it may take minutes, and does not know drawings.

    Args:
        state: what all requests share.
    """

    def __init__(self, state: AppState) -> None:
        self.state = state
        self.ready: Example | None = None
        self._thread = threading.Thread(target=self._describe, name="vlmheads-first", daemon=True)
        if state.models.get(state.models.default).packaged:
            self._thread.start()

    def wait(self, seconds: float = PATIENCE) -> Example | None:
        """Return the example, if it is finished by then."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return self.ready

    def _describe(self) -> None:
        state, lock, never = self.state, self.state.models.run_lock, threading.Event()
        model = state.models.get(state.models.default)
        chosen = recommended_method(model.captioner.model)
        request = parse_request(state, scene=SCENES[0], methods=[[chosen]] if chosen else [])
        *_, result = describe(request, run_lock=lock, stop=never)
        assert isinstance(result, Result)
        strengths = None
        if request.methods and strength_of(request.methods[0]) is not None:
            *_, strengths = measure_strengths(
                request, request.methods[0], run_lock=lock, stop=never
            )
        state.results.keep(result)
        self.ready = Example(result, strengths)
