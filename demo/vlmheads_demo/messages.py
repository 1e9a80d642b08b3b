"""What a visitor is told when something goes wrong: one clear sentence, and no path."""

from __future__ import annotations

import logging
import re

from vlmheads.errors import VlmHeadsError

LOG = logging.getLogger("vlmheads.demo")
UNEXPECTED = "Something went wrong inside of the server; its log says what. The page goes on."

# An absolute path of two parts or more, of Unix or Windows; a web address is none.
_PATH = re.compile(
    r"(?<![\w:/.])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s/\\:'\"(),;]+[\\/])+([^\s/\\:'\"(),;]*)"
)


def without_paths(text: str) -> str:
    """Return a text in which every absolute path is cut to its last part."""
    return _PATH.sub(lambda found: found.group(1) or "a folder", text)


def told(error: Exception) -> str:
    """Return what a visitor is told of an error.

    A refusal is told in its own words. Anything else is a fault of ours: it goes to the log with
    its traceback, and the visitor learns no more than that.
    """
    if isinstance(error, VlmHeadsError):
        return without_paths(" ".join(str(error).split()))
    LOG.error("unexpected error", exc_info=error)
    return UNEXPECTED
