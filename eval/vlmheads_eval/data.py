"""What to ask a model: images with prompts, from COCO folders, question files or scenes."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import decode, read_bytes, read_text
from vlmheads_eval.chair.ground_truth import Coco, annotation_files, category_name, read_coco
from vlmheads_eval.pope.questions import STRATEGIES, build_questions, read_questions, sample_images
from vlmheads_eval.records import ImageId, image_key, inside, read_records

TASKS = ("caption", "pope", "amber")
PROMPT = "Describe the image."
TESTBED = "testbed:"


@dataclass(frozen=True)
class Sample:
    """One image with a prompt.

    Args:
        key: identifies the sample in its run.
        image: the image file.
        prompt: the text that goes with it.
        record: further fields of its prediction, such as image_id or question_id.
        answer_field: the field that holds the answer: caption, answer or response.
        shown: whether the image is shown; if not, the prompt goes alone and `image` is not read.
    """

    key: str
    image: Path
    prompt: str
    record: Mapping[str, Any] = field(default_factory=dict)
    answer_field: str = "caption"
    shown: bool = True


@dataclass(frozen=True)
class Material:
    """The samples of a run, the ground truth to score them against, and digests of its files."""

    samples: tuple[Sample, ...]
    ground_truth: tuple[Path, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)


def load_material(
    data: Sequence[str],
    task: str,
    *,
    workspace: Path,
    images: Path | None = None,
    prompt: str | None = None,
    num: int | None = None,
    ids: Path | None = None,
    seed: int = 0,
) -> Material:
    """Return the samples to ask about.

    Args:
        data: "testbed:test" or "testbed:counterfactual", a COCO folder, POPE question files, or the
            folder of AMBER's annotations and queries.
        task: "caption", "pope", "amber", or a benchmark of `vlmheads_eval.benchmarks`.
        workspace: where generated scenes and questions are written.
        images: the folder of the images, if the data do not contain it.
        prompt: the prompt for captions; for questions a template with {question} in it.
        num: how many images, drawn with the seed; by default all, or 500 scenes.
        ids: a file of image ids to use instead, one per line or a JSON list.
        seed: for the draw, and for the scenes of the test bench.
    """
    from vlmheads_eval.benchmarks.registry import ASKED

    if task not in (*TASKS, *ASKED):
        raise VlmHeadsError(f"task {task!r}", " or ".join((*TASKS, *ASKED)))
    if task in ASKED:
        return _benchmark(task, data, workspace, images, prompt, num, ids, seed)
    if task == "amber" or (task == "pope" and all(Path(item).is_file() for item in data)):
        if ids is not None:
            raise VlmHeadsError(f"--ids {ids} with {task} questions", "--ids with a COCO folder")
        if task == "amber":
            return _amber(data, images, prompt, num)
        return _questions([Path(item) for item in data], _folder(images), prompt, num, seed)
    folder = _folder_of(data, workspace, num, seed)
    entries, annotations = coco_images(folder, images)
    chosen = _choose(entries, num, ids, seed)
    if task == "pope":
        files = _build_pope(folder, annotations, chosen, workspace, seed)
        return _questions(files, None, prompt, None, seed, {k: v[1] for k, v in chosen.items()})
    samples = [
        Sample(key, path, prompt or PROMPT, {"image_id": image_id})
        for key, (image_id, path) in chosen.items()
    ]
    return Material(tuple(samples), tuple(annotation_files(folder)))


def _benchmark(
    name: str,
    data: Sequence[str],
    workspace: Path,
    images: Path | None,
    prompt: str | None,
    num: int | None,
    ids: Path | None,
    seed: int,
) -> Material:
    from vlmheads_eval.benchmarks.material import benchmark_material

    if len(data) != 1 or data[0].startswith(TESTBED):
        raise VlmHeadsError(f"--data {' '.join(data)} for {name}", "its file or folder")
    if ids is not None:
        raise VlmHeadsError(f"--ids for {name}", "none; --num draws some")
    return benchmark_material(
        name,
        Path(data[0]),
        workspace=workspace,
        images=images,
        prompt=prompt,
        num=num,
        seed=seed,
    )


def _folder_of(data: Sequence[str], workspace: Path, num: int | None, seed: int) -> Path:
    if len(data) != 1:
        raise VlmHeadsError(f"{len(data)} data sources", "one folder, or question files")
    if not data[0].startswith(TESTBED):
        folder = Path(data[0])
        if not folder.is_dir():
            raise VlmHeadsError(f"no folder {folder}", "a COCO folder or testbed:test")
        return folder
    from vlmheads_testbed.coco import write_dataset

    split = data[0].removeprefix(TESTBED)
    folder = workspace / f"{split}-{num or 500}-{seed}"
    if not (folder / "captions.json").is_file():  # Written last.
        write_dataset(folder, split, num or 500, seed)
    return folder


def at_most(data: str, num: int) -> int | None:
    """Return how many images to take: `num`, or None for all of a folder that has no more."""
    if data.startswith(TESTBED) or not Path(data).is_dir():
        return num
    return num if num < len(coco_images(Path(data), None)[0]) else None


def coco_images(folder: Path, images: Path | None) -> tuple[dict[str, tuple[ImageId, Path]], Coco]:
    """Return key -> (id, file) for the images of a COCO folder, and its annotations.

    The images are in the folder given, in `images/`, in one named after the split, or next to the
    annotations.
    """
    file = instances_file(folder)
    content = read_coco(file)
    base = images or image_folder(folder, file)
    entries: dict[str, tuple[ImageId, Path]] = {}
    for image in sorted(content.images, key=lambda one: image_key(one.id).zfill(20)):
        if image.file_name is None:
            raise VlmHeadsError(f"{file}: image {image.id!r} without a file_name", "COCO's format")
        entry = (image.id, inside(base, image.file_name, f"{file}: image {image.id!r}"))
        if entries.setdefault(image_key(image.id), entry)[1] != entry[1]:
            raise VlmHeadsError(f"{file}: image {image.id!r} has two files", "one")
    if not entries:
        raise VlmHeadsError(f"{file} lists no images", "at least one")
    return entries, content


def instances_file(folder: Path) -> Path:
    """Return the instances of a COCO folder; of both splits that which models are tested on."""
    files = [file for file in annotation_files(folder) if file.name.startswith("instances")]
    return next((file for file in files if "val" in file.name), files[0])


def image_folder(folder: Path, file: Path) -> Path:
    """Return the folder of the images of a COCO folder, by the name of the annotation file."""
    place = file.stem.removeprefix("instances").strip("_")
    folders = (folder / "images", folder / place, folder / "images" / place)
    return next((path for path in folders if path.is_dir()), folder)


def _choose(
    entries: Mapping[str, tuple[ImageId, Path]], num: int | None, ids: Path | None, seed: int
) -> dict[str, tuple[ImageId, Path]]:
    if ids is not None:
        keys = _listed(ids)
        missing = [key for key in keys if key not in entries]
        if missing:
            raise VlmHeadsError(f"{ids}: image {missing[0]} is not in the data", "its image ids")
    elif num is None or num == len(entries):
        keys = list(entries)
    elif num > len(entries):
        raise VlmHeadsError(f"--num {num}", f"at most the {len(entries)} images of the data")
    else:
        keys = random.Random(seed).sample(list(entries), num)
    return {key: entries[key] for key in keys}


def _listed(ids: Path) -> list[str]:
    expected = "image ids, one per line or a JSON list"
    content = read_bytes(ids, expected)
    if content.lstrip().startswith(b"["):
        listed: list[ImageId] = decode(content, list[ImageId], str(ids), expected)
    else:
        listed = list(read_text(ids, expected).split())
    keys = [image_key(name) for name in listed]
    if not keys:
        raise VlmHeadsError(f"{ids} lists no image", expected)
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise VlmHeadsError(f"{ids} lists image {twice} twice", "every image once")
    return keys


def _build_pope(
    folder: Path,
    annotations: Coco,
    chosen: Mapping[str, tuple[ImageId, Path]],
    workspace: Path,
    seed: int,
) -> list[Path]:
    """Write POPE's three question files for the chosen images and return their paths."""
    names = annotations.names(folder)
    objects: dict[str, dict[str, None]] = {key: {} for key in chosen}
    for number, annotation in enumerate(annotations.annotations):
        key = image_key(annotation.image_id)
        if key in objects:
            objects[key][category_name(folder, number, annotation, names)] = None
    images = [(key, list(found)) for key, found in objects.items() if len(found) >= 3]
    images = [(image, list(found)) for image, found in sample_images(images, len(images), seed)]
    files = []
    workspace.mkdir(parents=True, exist_ok=True)
    for strategy in STRATEGIES:
        built = build_questions(images, strategy, draws=random.Random(seed))  # type: ignore[arg-type]
        path = workspace / f"pope_{strategy}.json"
        path.write_text("".join(json.dumps(q.to_dict()) + "\n" for q in built), "utf-8")
        files.append(path)
    return files


def _questions(
    paths: Sequence[Path],
    images: Path | None,
    prompt: str | None,
    num: int | None,
    seed: int,
    files: Mapping[str, Path] | None = None,
) -> Material:
    samples = []
    for path in paths:
        file = read_questions(path)
        names = sorted({question.image for question in file.questions})
        kept = set(names if num is None else random.Random(seed).sample(names, num))
        samples += [
            Sample(
                f"{file.split}/{question.question_id}",
                files[question.image]
                if files
                else inside(images or Path(), question.image, f"{path}: {question.question_id}"),
                _filled(prompt, question.text),
                {"split": file.split, "question_id": question.question_id},
                "answer",
            )
            for question in file.questions
            if question.image in kept
        ]
    return Material(tuple(samples), tuple(paths))


class _Query(msgspec.Struct, frozen=True):
    """A line of AMBER's queries."""

    id: int
    image: str
    query: str


def _amber(
    data: Sequence[str], images: Path | None, prompt: str | None, num: int | None
) -> Material:
    if len(data) != 1:
        raise VlmHeadsError(f"{len(data)} data sources", "AMBER's data folder")
    folder = Path(data[0])
    queries: dict[int, _Query] = {}
    for path in sorted(folder.glob("query_*.json")):
        for place, query in read_records(path, _Query):
            if queries.setdefault(query.id, query) != query:
                raise VlmHeadsError(f"{place}: another query {query.id}", "every query once")
    if not queries:
        raise VlmHeadsError(f"{folder} without queries in query_*.json", "AMBER's data folder")
    base = _folder(images)
    samples = [
        Sample(
            str(number),
            inside(base, query.image, f"{folder}: query {number}"),
            _filled(prompt, query.query),
            {"id": number},
            "response",
        )
        for number, query in sorted(queries.items())[:num]
    ]
    return Material(tuple(samples), (folder,))


def _folder(images: Path | None) -> Path:
    if images is None or not images.is_dir():
        raise VlmHeadsError(f"images {images}", "the folder of the images", "pass --images")
    return images


def _filled(prompt: str | None, question: str) -> str:
    return (prompt or "{question}").replace("{question}", question)
