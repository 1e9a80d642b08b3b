"""Scenes of the test bench as examples: pictures of which it is known what they show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from vlmheads.errors import VlmHeadsError

SPLITS = ("test", "counterfactual")
LARGEST_INDEX = 999_999
# Those that the page shows at first: objects in the wrong place, then usual scenes. VHR mends some,
# changes nothing in others, and invents something in one.
SHOWN = (
    *("counterfactual:9", "counterfactual:7", "counterfactual:5", "counterfactual:2"),
    *("test:6", "test:3", "test:1", "test:0"),
)
_NAME = re.compile(r"(test|counterfactual):(\d{1,6})")


@dataclass(frozen=True, eq=False)
class Example:
    """A scene to describe.

    Args:
        name: split and index, such as "counterfactual:3".
        image: the picture.
        place: where it is, such as "kitchen".
        objects: the names of everything on it.
    """

    name: str
    image: Image.Image
    place: str
    objects: frozenset[str]


@lru_cache(maxsize=64)
def example(name: str) -> Example:
    """Draw the scene of a name; the same name always gives the same picture.

    Raises:
        VlmHeadsError: another name than "test:N" or "counterfactual:N".
    """
    from vlmheads_testbed.scenes import scene

    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise VlmHeadsError(
            f"scene {str(name)[:40]!r}",
            f"test:N or counterfactual:N with N from 0 to {LARGEST_INDEX}",
        )
    drawn = scene(found[1], 0, int(found[2]))
    return Example(name, drawn.image, drawn.place.name, drawn.names)
