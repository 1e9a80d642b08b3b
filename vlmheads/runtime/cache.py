"""The cache of a generation: where a forward pass takes it, and one whose rows are streams.

A forward pass takes and returns its cache as: ``cache``, or ``past_key_values`` before.

transformers 5.24 renamed the argument and the field; callers may go on using the old name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig

from vlmheads.errors import VlmHeadsError
from vlmheads.runtime.compat import is_recording

NAMES = ("cache", "past_key_values")


def cache_argument(model: Any) -> str:
    """Return the name of the argument of a model's forward pass that holds its cache.

    A wrapper that passes everything on is given the old name, which both sides know.

    Raises:
        VlmHeadsError: it has none of those that are known, so that steps could not be told apart.
    """
    known = inspect.signature(model.forward).parameters
    found = next((name for name in NAMES if name in known), None)
    if found is None and "input_ids" not in known:
        return NAMES[1]
    if found is None:
        raise VlmHeadsError(
            f"{type(model).__name__}.forward takes no cache",
            f"an argument {' or '.join(NAMES)}",
            "use a version of transformers that vlmheads was tested with",
        )
    return found


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """Return the cache among the arguments of a forward pass, under either name, or None."""
    return next((arguments[name] for name in NAMES if arguments.get(name) is not None), None)


def filled_cache(output: Any) -> Any:
    """Return the cache in a model's output, or None."""
    # The new name first: outputs that know it log a warning when asked for the old one.
    return getattr(output, NAMES[0]) if hasattr(output, NAMES[0]) else output.get(NAMES[1])


def with_cache(model: Any, arguments: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """Return the arguments with a cache in the place of theirs, under the model's own name."""
    others = {name: value for name, value in arguments.items() if name not in NAMES}
    return others | {cache_argument(model): cache}


class StreamCache(DynamicCache):
    """A cache whose rows are the main stream's and, after them, those of each extra stream.

    Beam search reorders the rows of the main stream; the others have to follow in step.

    Args:
        config: the model's config, for layers that keep a sliding window.
        copies: how many streams the rows hold, the main one included.
        rows: rows of one stream.
        given: the empty cache in whose place it stands; one that will be cropped, for prompt
            lookup, has been told to record what a window would drop.
    """

    def __init__(
        self, config: PreTrainedConfig, copies: int, rows: int, given: Cache | None
    ) -> None:
        super().__init__(config=config)
        self.copies, self.rows = copies, rows
        if given is not None and is_recording(given):
            self.activate_past_recording()  # type: ignore[no-untyped-call]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder every stream as the main one."""
        every = [beam_idx + copy * self.rows for copy in range(self.copies)]
        super().reorder_cache(torch.cat(every))  # type: ignore[arg-type]
