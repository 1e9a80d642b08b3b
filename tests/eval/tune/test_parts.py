"""Images divided into parts, from every kind of data."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.tune.parts import NEEDED, PARTS, Parts, load_parts
from vlmheads_eval.tune.settings import Settings

from vlmheads.errors import VlmHeadsError

PATTERN = get_variant("pattern")


def records(folder: Path, number: int, objects: object = ("dog",)) -> Path:
    """Images of different bytes, and records of them."""
    lines = []
    for at in range(number):
        Image.new("RGB", (8, 8), (at, 0, 0)).save(folder / f"{at}.png")
        lines.append(json.dumps({"image": f"{at}.png", "objects": objects}))
    path = folder / "objects.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def load(data: Path, seed: int = 0, num: int | None = None) -> Parts:
    return load_parts(
        Settings("embedded", str(data), data.parent / "out", seed=seed, num=num), PATTERN
    )


def keys(parts: Parts) -> dict[str, list[str]]:
    return {part: [one.key for one in samples] for part, samples in parts.samples.items()}


def test_the_parts_share_no_image_and_are_divided_by_seed(tmp_path: Path) -> None:
    path = records(tmp_path, 60)
    first, again, other = (keys(load(path, seed)) for seed in (3, 3, 4))
    every = [key for part in PARTS for key in first[part]]
    assert len(set(every)) == len(every) == 60
    assert first == again
    assert first != other


def test_a_file_records_which_image_is_in_which_part(tmp_path: Path) -> None:
    parts = load(records(tmp_path, 60, ["dog", "puppy"]))
    parts.write()
    for part, listed in keys(parts).items():
        assert json.loads(parts.files[part].read_text()) == {key: ["dog"] for key in listed}


def test_images_of_the_same_bytes_are_never_in_two_parts(tmp_path: Path) -> None:
    path = records(tmp_path, 70)
    for at in range(10):
        shutil.copyfile(tmp_path / f"{at}.png", tmp_path / f"{60 + at}.png")
    parts = load(path)
    assert parts.duplicates == 10
    assert sum(map(len, keys(parts).values())) == 60


@pytest.mark.parametrize(("number", "num"), [(NEEDED - 1, None), (60, NEEDED - 1)])
def test_too_few_images_are_refused(tmp_path: Path, number: int, num: int | None) -> None:
    with pytest.raises(VlmHeadsError, match=f"at least {NEEDED}"):
        load(records(tmp_path, number), num=num)


def test_more_images_than_there_are_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(VlmHeadsError, match="61, as asked for"):
        load(records(tmp_path, 60), num=61)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "0.png"}', "objects"),
        ('{"image": "0.png", "objects": "dog"}', "objects"),
        ('{"image": "0.png", "objects": ["gryphon"]}', "gryphon"),
        ('{"image": "lost.png", "objects": []}', "no image"),
        ('{"image": "0.png", "objects": []}\n{"image": "0.png", "objects": []}', "again"),
    ],
)
def test_a_record_of_another_form_is_refused_with_its_line(
    tmp_path: Path, line: str, message: str
) -> None:
    path = records(tmp_path, 1)
    path.write_text(line + "\n")
    with pytest.raises(VlmHeadsError, match=message) as refusal:
        load(path)
    assert "objects.jsonl:" in str(refusal.value)


def test_the_digest_tells_images_objects_and_parts_apart(tmp_path: Path) -> None:
    path = records(tmp_path, 60)
    before = load(path).digest
    assert load(path, seed=1).digest != before
    path.write_text(path.read_text().replace("dog", "cat"))
    assert load(path).digest != before


def test_data_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VlmHeadsError, match="JSON Lines"):
        load(tmp_path / "nothing")
