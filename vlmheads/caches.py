"""Where a forward pass takes and returns its cache: ``cache``, or ``past_key_values`` before.

transformers 5.24 renamed the argument and the field; callers may go on using the old name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from vlmheads.errors import VlmHeadsError

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
