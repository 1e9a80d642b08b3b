from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_testbed.captions import truthful
from vlmheads_testbed.categories import Category, categories, drawable
from vlmheads_testbed.scenes import SIZE, SPLITS, Group, Scene, scene, stream

#: Like COCO, five captions a picture; between them they use each object's synonyms.
CAPTIONS = 5

_LICENSES = [
    {
        "id": 1,
        "name": "Graphics: Twemoji, CC-BY 4.0",
        "url": "https://creativecommons.org/licenses/by/4.0/",
    }
]


def write_dataset(out: Path, split: str, number: int, seed: int = 0) -> None:
    """Write ``number`` scenes as a COCO dataset: images/, instances.json and captions.json.

    The same split, number and seed give the same bytes. Every caption is truthful: it names the
    objects of its picture and no other, in every split, since these captions are ground truth.
    (The captions that the model is trained on are others and name absent objects now and then:
    see ``captions.caption_sample``.)

    Raises:
        VlmHeadsError: for an unknown split, a number or seed out of range, or a folder that holds
            other images.
    """
    _check(split, number, seed)
    images = out / "images"
    names = [f"{image_id(split, seed, index):012d}.png" for index in range(number)]
    foreign = sorted({path.name for path in images.glob("*")} - set(names))
    if foreign:
        raise VlmHeadsError(
            f"{images} holds other files, {foreign[0]} for one",
            "an empty folder or one with the same dataset",
            "Name another folder or remove that one.",
        )
    images.mkdir(parents=True, exist_ok=True)
    entries, boxes, captions = [], [], []
    for index, name in enumerate(names):
        one = scene(split, seed, index)
        one.image.save(images / name, format="PNG")
        number_ = image_id(split, seed, index)
        entries.append(_image_entry(number_, name, one))
        boxes += [_box_entry(number_, group, i) for group in one.groups for i in range(group.count)]
        random = stream(split, seed, index, 1)
        captions += [
            {"image_id": number_, "caption": truthful(one, random)} for _ in range(CAPTIONS)
        ]
    shared = {
        "info": {
            "description": f"vlmheads test-bench scenes, split {split}, seed {seed}",
            "split": split,
            "seed": seed,
        },
        "licenses": _LICENSES,
        "images": entries,
    }
    _write(
        out / "instances.json",
        {
            **shared,
            "annotations": _numbered(boxes),
            "categories": [_category_entry(category) for category in categories()],
        },
    )
    _write(out / "captions.json", {**shared, "annotations": _numbered(captions)})


def image_id(split: str, seed: int, index: int) -> int:
    """Give a picture twelve digits: one for the split, five for the seed, six for the index.

    Pictures of different splits or seeds never share an id.
    """
    return (1 + SPLITS.index(split)) * 10**11 + seed * 10**6 + index


def _check(split: str, number: int, seed: int) -> None:
    if split not in SPLITS:
        raise VlmHeadsError(f"split {split!r}", "one of " + ", ".join(SPLITS))
    if not 1 <= number <= 10**6:
        raise VlmHeadsError(f"{number} scenes", "a number from 1 to 1000000")
    if not 0 <= seed < 10**5:
        raise VlmHeadsError(f"seed {seed}", "a number from 0 to 99999")


def _image_entry(number: int, name: str, one: Scene) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": name,
        "width": SIZE,
        "height": SIZE,
        "license": 1,
        "scene": one.place.name,
    }


def _box_entry(number: int, group: Group, sprite: int) -> dict[str, Any]:
    x, y, width, height = group.boxes[sprite]
    right, low = x + width, y + height
    return {
        "image_id": number,
        "category_id": drawable()[group.category].id,
        "bbox": [x, y, width, height],
        "area": group.areas[sprite],
        "segmentation": [[x, y, right, y, right, low, x, low]],
        "iscrowd": 0,
    }


def _category_entry(category: Category) -> dict[str, Any]:
    return {"id": category.id, "name": category.name, "supercategory": category.supercategory}


def _numbered(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": number, **entry} for number, entry in enumerate(entries, 1)]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
