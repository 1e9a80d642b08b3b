"""Which objects are in every image, as CHAIR defines them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import decode, read
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.records import ImageId, image_key

ACCEPTED = (
    "a COCO folder, COCO instances and captions JSON files, "
    'or a JSON of object sets {"image id": ["object", ...]}'
)


@dataclass(frozen=True)
class GroundTruth:
    """The categories that are in each image.

    Args:
        objects: image key (see `image_key`) -> categories.
        files: the files they were read from.
    """

    objects: Mapping[str, frozenset[str]]
    files: tuple[Path, ...]


def load_ground_truth(paths: Iterable[Path], variant: Variant) -> GroundTruth:
    """Read ground truth as CHAIR defines it: instance categories, and objects named by people.

    Args:
        paths: COCO folders (2014, 2017 or one `instances.json` and `captions.json`), annotation
            files, or object-set JSONs; their sets are merged.
        variant: how the human captions are read, as in the reference.
    """
    files = tuple(file for path in paths for file in annotation_files(path))
    objects: dict[str, set[str]] = {}
    for file in files:
        for key, found in _sets(file, variant):
            objects.setdefault(key, set()).update(found)
    if not objects:
        raise VlmHeadsError(f"no images in {', '.join(map(str, files)) or 'no file'}", ACCEPTED)
    return GroundTruth({key: frozenset(found) for key, found in objects.items()}, files)


def annotation_files(path: Path) -> list[Path]:
    """Return the annotation files of a COCO folder, or the file itself."""
    if path.is_file():
        return [path]
    found = [
        file
        for folder in (path, path / "annotations")
        for kind in ("instances", "captions")
        for file in sorted(folder.glob(f"{kind}*.json"))
    ]
    if not any(file.name.startswith("instances") for file in found):
        raise VlmHeadsError(f"{path} without instances*.json", ACCEPTED)
    return found


class Image(msgspec.Struct):
    """An image of a COCO file."""

    id: ImageId
    file_name: str | None = None


class Annotation(msgspec.Struct):
    """An object in an image, or a caption of it."""

    image_id: ImageId
    category_id: int | None = None
    caption: str | None = None


class Category(msgspec.Struct):
    """A kind of object."""

    id: int
    name: str


class Coco(msgspec.Struct):
    """What is used of a COCO annotation file; every entry of its lists counts, whatever its id."""

    annotations: list[Annotation]
    images: list[Image] = []
    categories: list[Category] = []

    def names(self, file: Path) -> dict[int, str]:
        """Return the names of the categories by id; one id must not have two."""
        found: dict[int, str] = {}
        for category in self.categories:
            if found.setdefault(category.id, category.name) != category.name:
                raise VlmHeadsError(
                    f"{file}: category {category.id} is {found[category.id]!r} and "
                    f"{category.name!r}",
                    "one name per category",
                )
        return found


def read_coco(file: Path) -> Coco:
    """Read a COCO annotation file.

    Raises:
        VlmHeadsError: it cannot be read, or is something else.
    """
    found: Coco = read(file, Coco, "COCO's annotation format")
    return found


def load_annotations(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file as it is, or say what is in it instead."""
    found: dict[str, Any] = read(file, dict[str, Any], ACCEPTED)
    return found


def _sets(file: Path, variant: Variant) -> Iterator[tuple[str, Iterable[str]]]:
    content: dict[str, msgspec.Raw] = read(file, dict[str, msgspec.Raw], ACCEPTED)
    if "annotations" in content:
        yield from _coco_sets(file, read_coco(file), variant)
        return
    nodes, place = variant.vocabulary.nodes, str(file)
    if "imid_to_objects" in content:
        content = decode(bytes(content["imid_to_objects"]), dict[str, msgspec.Raw], place, ACCEPTED)
    for image_id, raw in content.items():
        value = bytes(raw)
        if not value.lstrip().startswith(b"["):
            continue  # Notes next to the sets, such as "about".
        names: list[str] = decode(value, list[str], f"{place}: image {image_id!r}", ACCEPTED)
        yield image_key(image_id), [_node(name, nodes, file) for name in names]


def _coco_sets(file: Path, coco: Coco, variant: Variant) -> Iterator[tuple[str, Iterable[str]]]:
    for image in coco.images:
        yield image_key(image.id), ()
    nodes, names = variant.vocabulary.nodes, coco.names(file)
    captions = []
    for number, annotation in enumerate(coco.annotations):
        key = image_key(annotation.image_id)
        if annotation.caption is not None:
            captions.append((key, annotation.caption))
        else:
            yield key, [_node(category_name(file, number, annotation, names), nodes, file)]
    readings = variant.read_all([text for _, text in captions])
    for (key, _), reading in zip(captions, readings, strict=True):
        yield key, [mention.node for mention in reading.mentions.mentions]


def category_name(file: Path, number: int, annotation: Annotation, names: Mapping[int, str]) -> str:
    """Return the category of an annotation, or refuse one without."""
    name = names.get(annotation.category_id) if annotation.category_id is not None else None
    if name is None:
        raise VlmHeadsError(
            f"{file}: annotations[{number}] has the category {annotation.category_id}",
            "one of its categories, or a caption",
        )
    return name


def _node(name: str, nodes: Mapping[str, str], file: Path) -> str:
    node = nodes.get(name)
    if node is None:
        raise VlmHeadsError(
            f"{file}: category {name!r}",
            "categories of the vocabulary",
            "list it in a custom vocabulary (--vocabulary FILE with --variant fixed)",
        )
    return node
