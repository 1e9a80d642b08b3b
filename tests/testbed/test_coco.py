import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from vlmheads_testbed import commands
from vlmheads_testbed.coco import image_id, write_dataset
from vlmheads_testbed.scenes import SIZE, SPLITS, scene

from vlmheads.errors import VlmHeadsError

Dataset = Callable[..., Path]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_writes_the_same_bytes(dataset: Dataset) -> None:
    assert files(dataset(name="one")) == files(dataset(name="two"))


def test_a_dataset_is_written_again_in_place(dataset: Dataset) -> None:
    before = files(dataset())
    assert files(dataset()) == before


@pytest.mark.parametrize("name", ["instances.json", "captions.json"])
def test_pycocotools_loads_what_is_written(dataset: Dataset, name: str) -> None:
    from pycocotools.coco import COCO

    folder = dataset(number=4)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / name))
    images = coco.loadImgs(coco.getImgIds())
    assert len(images) == 4
    assert all((folder / "images" / image["file_name"]).is_file() for image in images)
    assert all(coco.getAnnIds(imgIds=[image["id"]]) for image in images)


def test_the_categories_are_those_of_coco(dataset: Dataset) -> None:
    content = json.loads((dataset() / "instances.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    assert len(names) == 80
    assert (names[1], names[13], names[44], names[90]) == (
        "person", "stop sign", "bottle", "toothbrush",
    )  # fmt: skip


def test_the_annotations_are_the_objects_of_the_scenes(dataset: Dataset) -> None:
    content = json.loads((dataset("val", 5, 2) / "instances.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    for index in range(5):
        one = scene("val", 2, index)
        boxes = [(group.category, list(box)) for group in one.groups for box in group.boxes]
        written = [
            (names[entry["category_id"]], entry["bbox"])
            for entry in content["annotations"]
            if entry["image_id"] == image_id("val", 2, index)
        ]
        assert written == boxes


def test_the_pictures_are_the_scenes_and_named_by_twelve_digits(dataset: Dataset) -> None:
    path = dataset("test", 1, 4) / "images" / "300004000000.png"
    with Image.open(path) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (SIZE, SIZE))
        assert picture.tobytes() == scene("test", 4, 0).pixels.tobytes()


def test_image_ids_are_unique_over_splits_and_seeds() -> None:
    ids = [image_id(split, seed, i) for split in SPLITS for seed in (0, 1, 99999) for i in range(3)]
    assert len(ids) == len(set(ids))
    assert all(len(str(number)) == 12 for number in ids)


def test_a_folder_with_other_images_is_refused(dataset: Dataset) -> None:
    folder = dataset(number=3)
    with pytest.raises(VlmHeadsError, match="holds other files"):
        write_dataset(folder, "test", 2, 0)


@pytest.mark.parametrize(
    ("split", "number", "seed"), [("exam", 1, 0), ("test", 0, 0), ("test", 1, -1)]
)
def test_what_is_out_of_range_is_refused(
    tmp_path: Path, split: str, number: int, seed: int
) -> None:
    with pytest.raises(VlmHeadsError, match="expected"):
        write_dataset(tmp_path / "data", split, number, seed)
    assert not (tmp_path / "data").exists()


def test_the_command_writes_a_dataset(tmp_path: Path, dataset: Dataset) -> None:
    out = tmp_path / "made"
    result = CliRunner().invoke(
        commands.testbed, ["make", str(out), "--split", "test", "--num", "3"]
    )
    assert result.exit_code == 0
    assert result.output == f"3 test scenes in {out}\n"
    assert files(out) == files(dataset("test", 3, 0))


def test_the_commands_load_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, vlmheads_testbed.commands, vlmheads_testbed.coco, vlmheads_testbed;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
