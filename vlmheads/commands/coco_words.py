"""Which objects of a caption an image holds, by the annotations of a COCO folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.words import find_objects, require_finders

Spans = list[tuple[int, int]]


def coco_folder(images: Iterable[Path]) -> Path | None:
    """Return the COCO folder that images belong to, None if there is none.

    It is the folder of an image, or the one above it, if that holds instances*.json or
    annotations/instances*.json.
    """
    for path in images:
        for folder in (path.parent, path.parent.parent):
            if _files(folder, "instances"):
                return folder
    return None


def objects_of(folder: Path) -> dict[str, frozenset[str]]:
    """Return the categories in each image of a COCO folder, by the image's file name.

    These are the categories of its instances and, where the folder has captions by people, the
    objects that those name.

    Raises:
        VlmHeadsError: no instances, or a file that is not in COCO's format.
    """
    instances = _files(folder, "instances")
    if not instances:
        raise VlmHeadsError(
            f"{folder} without instances*.json",
            "a COCO folder",
            "pass --coco FOLDER or --words FILE",
        )
    require_finders()
    names: dict[Any, str] = {}
    found: dict[Any, set[str]] = {}
    for file in (*instances, *_files(folder, "captions")):
        content = _read(file)
        try:
            for image in content["images"]:
                names[image["id"]] = Path(image["file_name"]).name
            kinds = {kind["id"]: kind["name"] for kind in content.get("categories", ())}
            for annotation in content["annotations"]:
                objects = found.setdefault(annotation["image_id"], set())
                if "caption" in annotation:
                    objects.update(name for *_, name in find_objects(annotation["caption"]))
                else:
                    objects.add(kinds[annotation["category_id"]])
        except (KeyError, TypeError, AttributeError) as error:
            raise VlmHeadsError(f"{file}: an entry without {error}", "COCO's format") from error
    return {name: frozenset(found.get(number, ())) for number, name in names.items()}


def object_spans(caption: str, objects: frozenset[str]) -> tuple[Spans, Spans]:
    """Return the characters of the objects that a caption names: those in the image, and others."""
    grounded: Spans = []
    hallucinated: Spans = []
    for start, end, name in find_objects(caption):
        (grounded if name in objects else hallucinated).append((start, end))
    return grounded, hallucinated


def _files(folder: Path, kind: str) -> Sequence[Path]:
    return [
        file
        for place in (folder, folder / "annotations")
        for file in sorted(place.glob(f"{kind}*.json"))
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise VlmHeadsError(f"{file} cannot be read ({error})", "COCO's format") from error
    if not isinstance(content, dict):
        raise VlmHeadsError(f"{file}: a JSON {type(content).__name__}", "COCO's format")
    return content
