"""The images of a search in three parts that share none: to learn, to select and to confirm."""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.output import replace
from vlmheads_eval.chair.ground_truth import GroundTruth, load_ground_truth
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.data import PROMPT, TESTBED, Sample, coco_images, load_material
from vlmheads_eval.records import ImageId, file_sha256, image_key, read_records
from vlmheads_eval.tune.settings import IMAGES, Settings

LEARN, SELECT, CONFIRM = PARTS = ("learn", "select", "confirm")
# Shares of the images in sixths, and the fewest that a part can do with.
SHARES = {LEARN: 1, SELECT: 2, CONFIRM: 3}
FEWEST = {LEARN: 8, SELECT: 16, CONFIRM: 24}
NEEDED = sum(FEWEST.values())

Known = Mapping[str, tuple[ImageId, Path, frozenset[str]]]


@dataclass(frozen=True)
class Parts:
    """The three parts.

    Args:
        samples: part -> images, in the order in which they are used.
        truth: the objects in all of them.
        files: part -> a JSON file of its image ids and objects, which scorers read.
        contents: of these files.
        digest: SHA-256 of the parts, the image files and the objects.
        duplicates: how many images were left out because another has the same bytes.
    """

    samples: Mapping[str, Sequence[Sample]]
    truth: GroundTruth
    files: Mapping[str, Path]
    contents: Mapping[Path, str]
    digest: str
    duplicates: int

    def write(self) -> None:
        """Write the files."""
        for file, content in self.contents.items():
            replace(file, content)


def sizes(images: int) -> dict[str, int]:
    """Return how many of a number of images each part gets, none fewer than it needs.

    Raises:
        VlmHeadsError: fewer images than the parts need.
    """
    if images < NEEDED:
        raise VlmHeadsError(
            f"{images} images with known objects",
            f"at least {NEEDED}: "
            + ", ".join(f"{number} to {part}" for part, number in FEWEST.items()),
        )
    spare = images - NEEDED
    total = sum(SHARES.values())
    # The fewest are in the ratio of the shares but for rounding, so that all grow alike.
    found = {part: FEWEST[part] + spare * SHARES[part] // total for part in PARTS}
    found[CONFIRM] += images - sum(found.values())
    return found


def divide(known: Known, images: int | None, seed: int) -> tuple[dict[str, list[str]], int]:
    """Draw images and divide them by seed; return the keys of each part, and the duplicates met.

    Images of the same bytes count once, so that none is in two parts under two names.

    Raises:
        VlmHeadsError: fewer images than are needed or asked for.
    """
    order = sorted(known, key=lambda key: key.zfill(20))
    random.Random(seed).shuffle(order)
    wanted = IMAGES if images is None else images
    seen: set[str] = set()
    drawn: list[str] = []
    duplicates = 0
    for key in order:
        if len(drawn) == wanted:
            break
        content = file_sha256(known[key][1])
        if content in seen:
            duplicates += 1
            continue
        seen.add(content)
        drawn.append(key)
    if images is not None and len(drawn) < images:
        raise VlmHeadsError(f"{len(drawn)} images of different content", f"{images}, as asked for")
    found, start = {}, 0
    for part, number in sizes(len(drawn)).items():
        found[part] = drawn[start : start + number]
        start += number
    return found, duplicates


def load_parts(settings: Settings, variant: Variant) -> Parts:
    """Read the data and divide them.

    Raises:
        VlmHeadsError: data that cannot be read, or too few images with known objects.
    """
    known, truth_files = _read(settings, variant)
    keys, duplicates = divide(known, settings.num, settings.seed)
    prompt = settings.prompt or PROMPT
    folder = settings.out / "data"
    samples, files, contents, content = {}, {}, {}, []
    for part, listed in keys.items():
        samples[part] = tuple(
            Sample(key, known[key][1], prompt, {"image_id": known[key][0]}) for key in listed
        )
        listing = {str(known[key][0]): sorted(known[key][2]) for key in listed}
        files[part] = folder / f"{part}.json"
        contents[files[part]] = json.dumps(listing, indent=0) + "\n"
        content += [
            [part, key, file_sha256(known[key][1]), sorted(known[key][2])] for key in listed
        ]
    objects = {key: known[key][2] for listed in keys.values() for key in listed}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return Parts(samples, GroundTruth(objects, truth_files), files, contents, digest, duplicates)


def _read(settings: Settings, variant: Variant) -> tuple[Known, tuple[Path, ...]]:
    """Return key -> id, file and objects of every image of the data."""
    path = Path(settings.data)
    if path.is_file():
        return _listed(path, settings.images, variant), (path,)
    folder = path
    if settings.data.startswith(TESTBED):
        if settings.images is not None:
            raise VlmHeadsError(f"--images with {settings.data}", "scenes, which are drawn")
        number = IMAGES if settings.num is None else settings.num
        sizes(number)
        material = load_material(
            [settings.data],
            "caption",
            workspace=settings.out / "data",
            num=number,
            seed=settings.seed,
        )
        folder = material.ground_truth[0].parent
    elif not path.is_dir():
        raise VlmHeadsError(
            f"no data {settings.data}",
            "a COCO folder, a split such as testbed:val, or a JSON Lines file of images with their "
            "objects",
        )
    entries, _ = coco_images(folder, settings.images)
    truth = load_ground_truth([folder], variant)
    known = {
        key: (image, file, truth.objects[key])
        for key, (image, file) in entries.items()
        if key in truth.objects and file.is_file()
    }
    if not known:
        some = next(iter(entries.values()))[1]
        raise VlmHeadsError(f"{folder} without its images", f"files such as {some}", "use --images")
    return known, truth.files


def _listed(path: Path, images: Path | None, variant: Variant) -> Known:
    """Read records of an image and its objects."""
    home = path.parent if images is None else images
    found: dict[str, tuple[ImageId, Path, frozenset[str]]] = {}
    for place, record in read_records(path):
        name, objects = record.get("image"), record.get("objects")
        named = isinstance(objects, list) and all(isinstance(one, str) for one in objects)
        if not isinstance(name, str) or not named:
            raise VlmHeadsError(
                f"{place}: {json.dumps(record)[:80]}", '{"image": "a.png", "objects": ["dog"]}'
            )
        file = home / name
        if not file.is_file():
            raise VlmHeadsError(
                f"{place}: no image {file}", "a file next to the records", "use --images FOLDER"
            )
        key = image_key(name)
        if key in found:
            raise VlmHeadsError(f"{place}: image {name} again", "every image once")
        found[key] = (name, file, frozenset(_nodes(objects, place, variant)))
    if not found:
        raise VlmHeadsError(f"{path} holds no record", "an image and its objects per line")
    return found


def _nodes(objects: Any, place: str, variant: Variant) -> Iterator[str]:
    nodes = variant.vocabulary.nodes
    for name in objects:
        if name not in nodes:
            raise VlmHeadsError(f"{place}: object {name!r}", "objects of the variant's vocabulary")
        yield nodes[name]
