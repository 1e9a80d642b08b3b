"""Head maps as options: what they say for the image, and which heads that singles out."""

from __future__ import annotations

from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.model.geometry import Geometry

# Measures in which a high value is that of a head that works for the image; "random" is a control.
FOR_THE_IMAGE = ("vhd", "image-attention", "image-centric", "retrieval", "random")
# Those by which heads can be ranked: high values of a path work for grounded words, high ones of an
# attribution for hallucinated words.
RANKED = (*FOR_THE_IMAGE, "text-path", "image-path", "attribution")

# The heads of the model that published counts are given for, LLaVA-1.5-7B.
_PUBLISHED_HEADS = 32 * 32


def support(head_map: HeadMap) -> Tensor:
    """How much each head works for the image, by the mean of a map of a measure in RANKED, [L, H].

    It is the mean itself, and of "attribution" its negative: there a high score is that of a head
    that works for hallucinated words. An attribution that was measured with a factor above 1 is the
    other way round.
    """
    removed = float(head_map.provenance.get("factor", 0)) < 1
    against = head_map.measure == "attribution" and removed
    return -head_map.mean() if against else head_map.mean()


def ranked_heads(head_map: HeadMap) -> list[tuple[int, int]]:
    """Every head (layer, head) of a map, the one that works least for the image first."""
    order = support(head_map).flatten().argsort(stable=True).tolist()
    return [divmod(index, head_map.geometry.heads) for index in order]


def scaled_count(plugin: str, count: int | None, published: int, geometry: Geometry) -> int:
    """Return how many heads to single out: `count`, or as large a share as the published one.

    Raises:
        VlmHeadsError: not a whole number from 1 to the number of heads.
    """
    heads = geometry.layers * geometry.heads
    if count is None:
        return max(1, round(heads * published / _PUBLISHED_HEADS))
    if not 1 <= count <= heads or count != int(count):
        raise VlmHeadsError(f"{plugin}: count={count}", f"a whole number from 1 to {heads} heads")
    return int(count)
