"""Which objects are in every image, as CHAIR defines them."""

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError, install_hint
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.records import image_key

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


def _sets(file: Path, variant: Variant) -> Iterator[tuple[str, Iterable[str]]]:
    content = load_annotations(file)
    if "annotations" in content:
        with _naming(file):
            yield from _coco_sets(file, content, variant)
        return
    nodes = variant.vocabulary.nodes
    for image_id, names in content.get("imid_to_objects", content).items():
        if not isinstance(names, list):
            continue  # Notes next to the sets, such as "about".
        yield image_key(image_id), [_node(name, nodes, file) for name in names]


def load_annotations(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or say what is in it instead."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise VlmHeadsError(f"{file} cannot be read ({error.strerror})", ACCEPTED) from error
    except (ValueError, RecursionError) as error:
        raise VlmHeadsError(f"{file}: not JSON ({error})", ACCEPTED) from error
    if not isinstance(content, dict):
        raise VlmHeadsError(f"{file}: a JSON {type(content).__name__}", ACCEPTED)
    return content


def _coco_sets(
    file: Path, content: dict[str, Any], variant: Variant
) -> Iterator[tuple[str, Iterable[str]]]:
    coco = load_coco(content)
    for image_id in coco.imgs:
        yield image_key(image_id), ()
    nodes = variant.vocabulary.nodes
    names = {number: category["name"] for number, category in coco.cats.items()}
    captions = []
    for annotation in coco.anns.values():
        key = image_key(annotation["image_id"])
        if "caption" in annotation:
            captions.append((key, annotation["caption"]))
        else:
            yield key, [_node(names[annotation["category_id"]], nodes, file)]
    readings = variant.read_all([text for _, text in captions])
    for (key, _), reading in zip(captions, readings, strict=True):
        yield key, [mention.node for mention in reading.mentions.mentions]


def load_coco(content: dict[str, Any]) -> Any:
    """Return pycocotools' index of a COCO annotation dictionary, silently."""
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise VlmHeadsError(
            "pycocotools is not installed", todo=f"install it with {install_hint('eval')}"
        ) from error
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise VlmHeadsError(
            f"{file}: an annotation without {error}", "COCO's annotation format"
        ) from error


def _node(name: str, nodes: Mapping[str, str], file: Path) -> str:
    node = nodes.get(name)
    if node is None:
        raise VlmHeadsError(
            f"{file}: category {name!r}",
            "categories of the vocabulary",
            "list it in a custom vocabulary (--vocabulary FILE with --variant fixed)",
        )
    return node
