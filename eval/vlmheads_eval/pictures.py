"""Small pictures of the images in a report, where their files are at hand."""

import base64
import io
from collections.abc import Callable, Iterable
from pathlib import Path

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.captions import ImageId, image_key
from vlmheads_eval.samples import coco_images

SIDE = 160  # Pixels of the longer side, at most.
Pictures = Callable[[ImageId], str | None]


def no_pictures(image_id: ImageId) -> str | None:
    """Return no picture."""
    return None


def pictures_of(ground_truth: Iterable[Path]) -> Pictures:
    """Return what gives an image's picture as a data URI, None where its file is not there.

    Args:
        ground_truth: COCO folders or annotation files; other files have no images beside them.
    """
    files: dict[str, Path] = {}
    for path in ground_truth:
        folder = path if path.is_dir() else path.parent
        if folder.name == "annotations":
            folder = folder.parent
        if path.is_dir() or path.name.startswith("instances"):
            entries, _ = coco_images(folder, None)
            files.update({key: file for key, (_, file) in entries.items()})

    def picture(image_id: ImageId) -> str | None:
        file = files.get(image_key(image_id))
        return None if file is None or not file.is_file() else _data_uri(file)

    return picture


def _data_uri(file: Path) -> str | None:
    from vlmheads.images import read_image

    try:
        image = read_image(file)
    except VlmHeadsError:
        return None  # The caption stands for itself; `predict` has recorded the fault.
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
