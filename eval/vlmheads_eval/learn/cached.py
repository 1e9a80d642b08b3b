"""What PTI learns: directions of cached keys and values, of objects and of their names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import read
from vlmheads_eval.calibrate.learn import Source
from vlmheads_eval.chair.spans import coco_objects
from vlmheads_eval.learn.pairs import Pair, inputs_of
from vlmheads_eval.records import ImageId, image_key

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Box = tuple[float, float, float, float]  # left, top, width, height, in pixels


class Boxed(msgspec.Struct):
    """An object in an image, or a caption of it, which has no box."""

    image_id: ImageId
    bbox: list[float] | None = None


class Boxes(msgspec.Struct):
    """What is used of a COCO annotation file."""

    annotations: list[Boxed]


def cache_directions(captioner: Any, pairs: Sequence[Pair], source: Source) -> "dict[str, Tensor]":
    """PTI's directions of the image and of text, each of keys and of values, [L, Hkv, D].

    The image's: the mean over image positions with all but the objects blotted out, minus that with
    the objects blotted out, by their boxes in instances.json. Text's: the last token of the prompt
    with the names of the objects after it, minus that with the truthful caption without its object
    words.

    Raises VlmHeadsError for data without boxes.
    """
    import torch

    from vlmheads.detect.directions import cache_direction, layer_cache
    from vlmheads.images import read_image
    from vlmheads.model.anatomy import examine

    boxes = read_boxes(source.truth.files)
    boxed = [pair for pair in pairs if boxes.get(pair.sample.key)]
    if len(boxed) < 2:
        raise VlmHeadsError(
            f"{len(boxed)} of {len(pairs)} images with boxes of objects",
            "instances.json with a bbox for each object of at least two images",
        )
    anatomy = examine(captioner.model)
    found: dict[str, list[Tensor]] = {}

    def add(kind: str, sides: list[Any], places: list[Any]) -> None:
        one, other = (
            layer_cache(captioner.model, given, place)
            for given, place in zip(sides, places, strict=True)
        )
        for at, name in enumerate(("keys", "values")):
            found.setdefault(f"{kind}_{name}", []).append(one[at] - other[at])

    for pair in boxed:
        image, sample = read_image(pair.sample.image), pair.sample
        seen = [
            captioner.prepare([blotted(image, boxes[sample.key], inside)], [sample.prompt])
            for inside in (False, True)
        ]
        add("image", seen, [anatomy.is_visual(one["input_ids"])[0] for one in seen])
        names = ", ".join(sorted(source.truth.objects[sample.key]))
        texts = [inputs_of(captioner, sample, text) for text in (names, nameless(pair.truthful))]
        add("text", texts, [_last(one["input_ids"].shape[1]) for one in texts])
    return {name: cache_direction(torch.stack(parts)) for name, parts in found.items()}


def read_boxes(files: Sequence[Path]) -> Mapping[str, list[Box]]:
    """Return image key -> boxes of the objects in COCO annotation files; captions have none."""
    found: dict[str, list[Box]] = {}
    for file in files:
        held: Boxes = read(file, Boxes, "COCO's annotations")
        for at, one in enumerate(held.annotations):
            if one.bbox:
                if len(one.bbox) != 4:
                    raise VlmHeadsError(
                        f"{file}: annotations[{at}].bbox of {len(one.bbox)} numbers", "four"
                    )
                left, top, width, height = one.bbox
                found.setdefault(image_key(one.image_id), []).append((left, top, width, height))
    return found


def blotted(image: "Image", boxes: Sequence[Box], inside: bool) -> "Image":
    """Return an RGB image with its mean colour inside of boxes, or everywhere else."""
    import numpy as np
    from PIL import Image as Images

    pixels = np.array(image.convert("RGB"))
    covered = np.zeros(pixels.shape[:2], dtype=bool)
    for left, top, width, height in boxes:
        covered[round(top) : round(top + height), round(left) : round(left + width)] = True
    mean = pixels.reshape(-1, 3).mean(axis=0).round().astype(pixels.dtype)
    pixels[covered if inside else ~covered] = mean
    return Images.fromarray(pixels)


def nameless(caption: str) -> str:
    """Return a caption without the words that name COCO's objects."""
    left, end = [], 0
    for start, stop, _ in coco_objects(caption):
        left.append(caption[end:start])
        end = max(end, stop)
    return " ".join("".join([*left, caption[end:]]).split())


def _last(length: int) -> "Tensor":
    import torch

    return torch.arange(length) == length - 1
