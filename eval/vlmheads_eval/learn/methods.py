"""What each method learns, as tensors by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlmheads_eval.calibrate.learn import Source
from vlmheads_eval.learn.cached import cache_directions
from vlmheads_eval.learn.inert import head_ratios, inert_columns
from vlmheads_eval.learn.offsets import FORMS
from vlmheads_eval.learn.pairs import Pair, nullu_basis, vti_directions
from vlmheads_eval.learn.risk import steering
from vlmheads_eval.learn.words import LabelledCaption

if TYPE_CHECKING:
    from torch import Tensor

    from vlmheads.detect.mass import WordMass

FromWords = Callable[["WordMass", "Tensor"], "dict[str, Tensor]"]
Apart = Callable[[Any, Sequence[LabelledCaption], int, Callable[[str], None]], "list[Tensor]"]
FromPairs = Callable[[Any, Sequence[Pair], Source], "dict[str, Tensor]"]
FromImages = Callable[[Any, list[Any], str], "dict[str, Tensor]"]


@dataclass(frozen=True)
class Method:
    """How a method learns: from recorded object words, from pairs of captions, or from images.

    Args:
        about: one line for people.
        images: how many images are taken by default.
        words: makes tensors of the masses of all words and [W] whether each object is there.
        apart: marks the columns of the prompts whose mass is also recorded by itself.
        pairs: makes tensors of the captioner, pairs of captions, and the data.
        pictures: makes tensors of the captioner, images and the prompt.
        forms: of `pairs`, by name, for a method that has several; the first is `pairs` itself.
    """

    about: str
    images: int
    words: FromWords | None = None
    apart: Apart | None = None
    pairs: FromPairs | None = None
    pictures: FromImages | None = None
    forms: Mapping[str, FromPairs] = field(default_factory=dict)


def attention_tables(masses: "WordMass", real: "Tensor") -> "dict[str, Tensor]":
    """AdaIAT's tables: mean attention that a generated token gets, for either kind of word.

    For a word whose row sees t generated tokens it is the mass on them over t. Words that begin a
    caption, whose rows see none, are left out.

    Returns:
        "real" and "hallucinated", [L, H] each.

    Raises VlmHeadsError where all words of a kind begin their captions.
    """
    from vlmheads.errors import VlmHeadsError

    later = masses.said > 0
    mean = masses.generated[later] / masses.said[later, None, None]
    kinds = {"real": real[later], "hallucinated": ~real[later]}
    for kind, chosen in kinds.items():
        if not bool(chosen.any()):
            raise VlmHeadsError(f"no {kind} object word after the first word of a caption", "one")
    return {kind: mean[chosen].mean(dim=0) for kind, chosen in kinds.items()}


def image_pool(captioner: Any, images: list[Any], prompt: str) -> "dict[str, Tensor]":
    """CICD's pool: "pixels", images as the model's processor prepares them, [N, C, height, width].

    Raises VlmHeadsError for a processor that makes anything else of an image.
    """
    import torch

    from vlmheads.errors import VlmHeadsError

    prepared = [captioner.prepare([image], prompt) for image in images]
    pixels = [inputs.get("pixel_values") for inputs in prepared]
    shapes = {tuple(one.shape) if one is not None else None for one in pixels}
    if len(shapes) != 1 or len(next(iter(shapes)) or ()) != 4:
        raise VlmHeadsError(
            f"images that the processor turns into {', '.join(map(str, shapes))}",
            "one picture of the same size for every image, as LLaVA 1.5 has it",
        )
    return {"pixels": torch.cat(pixels).float()}


def blotted_directions(captioner: Any, images: list[Any], prompt: str) -> "dict[str, Tensor]":
    """VTI's visual "directions" [blocks, P, E], from images to their mean with few patches left.

    See `vlmheads.detect.visual_directions`, and what it refuses.
    """
    from vlmheads.detect import visual_directions

    pictures = (captioner.prepare([image], prompt) for image in images)
    return {"directions": visual_directions(captioner.model, pictures)}


METHODS: Mapping[str, Method] = {
    "adaiat": Method(
        "how much attention generated tokens get, for real and hallucinated words",
        500,
        words=attention_tables,
    ),
    "havae": Method(
        "how much each head looks at the image, its inert tokens apart, for real words",
        500,
        words=head_ratios,
        apart=inert_columns,
    ),
    "vti": Method(
        "directions from hallucinated to truthful captions at their last token",
        500,
        pairs=vti_directions,
    ),
    "vti-visual": Method(
        "directions of the vision tower from images to those with few patches left",
        70,
        pictures=blotted_directions,
    ),
    "nullu": Method(
        "what tells hallucinated from truthful captions in each layer, as a basis",
        500,
        pairs=nullu_basis,
    ),
    "revis": Method(
        "vectors from captions without the image to those with it, and where and when to add them",
        500,
        pairs=steering,
    ),
    "pti": Method(
        "directions of cached keys and values, of objects in the image and of their names",
        500,
        pairs=cache_directions,
    ),
    "offsets": Method(
        "vectors for head outputs, by ITI, LoFiT or AFTER",
        500,
        pairs=FORMS["iti"],
        forms=FORMS,
    ),
    "cicd": Method("a pool of other images to contrast with", 16, pictures=image_pool),
}
