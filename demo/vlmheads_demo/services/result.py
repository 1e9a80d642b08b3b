"""Everything that one run gave, and a shelf of the latest runs for the clicks that follow."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads_demo.services.generation import Spoken
from vlmheads_demo.services.measurement import Picture, Support
from vlmheads_demo.truth import Reading

KEPT = 24


@dataclass(frozen=True, eq=False)
class Said:
    """One caption of a run.

    Args:
        name: the method as the command line takes it, "plain" for none.
        method: plugins with their options, as plain values.
        spoken: the caption with its time.
        reading: what it says.
        support: what was measured at its words.
    """

    name: str
    method: tuple[Mapping[str, Any], ...]
    spoken: Spoken
    reading: Reading
    support: Support


@dataclass(frozen=True, eq=False)
class Result:
    """A whole run: one picture, plain and under methods.

    Args:
        model: the model's name.
        geometry: its layers and heads.
        prompt: what was asked.
        decoding: how tokens were chosen, as plain values.
        scene: the name of the test-bench scene; "" for a picture of the visitor.
        objects: what is in the picture; None where that is not known.
        picture: what was measured at the prompt.
        captions: plain first.
        key: names the run, and is known to the visitor alone.
    """

    model: str
    geometry: Geometry
    prompt: str
    decoding: Mapping[str, Any]
    scene: str
    objects: tuple[str, ...] | None
    picture: Picture
    captions: tuple[Said, ...]
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))


class Results:
    """The latest runs of all visitors by their keys; older ones make room."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, result: Result) -> None:
        """Keep a run."""
        with self._lock:
            self._results[result.key] = result
            while len(self._results) > self._kept:
                self._results.popitem(last=False)

    def get(self, key: str) -> Result:
        """Return the run of a key.

        Raises:
            VlmHeadsError: no such run, or one that has made room.
        """
        with self._lock:
            found = self._results.get(key) if isinstance(key, str) else None
        if found is None:
            raise VlmHeadsError(
                "a run that is not kept any more", todo="describe the picture again"
            )
        return found
