"""Files that others read: an ImageFolder, text files, parquet, webdataset."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_job import caption, describe, paint
from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads.jobs import shards

NUMBER = 6


@pytest.fixture
def images(tmp_path: Path) -> Path:
    paint(tmp_path / "images", NUMBER)
    return tmp_path / "images"


def texts(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*.txt")
    }


def test_metadata_is_what_an_image_folder_has(images: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (images / "more" / "broken.png").write_bytes(b"no image")
    assert caption(images, images, "metadata").failed == 1
    (images / "more" / "broken.png").unlink()
    table = datasets.load_dataset("imagefolder", data_dir=str(images), cache_dir=str(tmp_path))
    rows = list(table["train"])
    assert [row["text"] for row in rows] == [f"The colour ({n}, 0, 0)." for n in (0, 2, 4, 1, 3, 5)]
    assert [row["image"].getpixel((0, 0))[0] for row in rows] == [0, 2, 4, 1, 3, 5]


def test_images_outside_of_the_folder_of_metadata_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(VlmHeadsError, match="is outside of"):
        caption(images, tmp_path / "elsewhere", "metadata")


def test_text_files_stand_beside_the_images_or_in_a_mirror(images: Path, tmp_path: Path) -> None:
    expected = {
        ("more/" if n % 2 else "") + f"{n:03d}.txt": f"The colour ({n}, 0, 0).\n"
        for n in range(NUMBER)
    }
    caption(images, tmp_path / "mirror", "txt")
    assert texts(tmp_path / "mirror") == expected
    assert texts(images) == {}
    caption(images, None, "txt")
    assert texts(images) == expected


def test_a_text_file_is_one_line(images: Path) -> None:
    def lines(pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        return [{"text": "One.\n\nTwo.", "text_safer": ""} for _ in pictures]

    caption(images / "000.png", None, "txt", work=lines)
    assert (images / "000.txt").read_bytes() == b"One. Two.\n"


def test_text_files_of_others_are_kept_unless_told_otherwise(images: Path) -> None:
    (images / "000.txt").write_text("Mine.\n")
    (images / "002.txt").write_text("")
    summary = caption(images, None, "txt")
    assert (summary.done, summary.skipped) == (NUMBER - 1, 1)
    assert texts(images)["000.txt"] == "Mine.\n"
    assert texts(images)["002.txt"] == "The colour (2, 0, 0).\n"
    (images / "004.txt").write_text("Edited.\n")
    Image.new("RGB", (9, 9), (90, 0, 0)).save(images / "004.png")
    Image.new("RGB", (9, 9), (91, 0, 0)).save(images / "002.png")
    assert caption(images, None, "txt").done == 1
    assert texts(images)["004.txt"] == "Edited.\n"
    assert texts(images)["002.txt"] == "The colour (91, 0, 0).\n"
    assert caption(images, None, "txt", overwrite=True).done == NUMBER
    assert texts(images)["000.txt"] == "The colour (0, 0, 0).\n"


def test_a_killed_job_that_overwrites_goes_on_overwriting(images: Path) -> None:
    class Killed(BaseException):
        pass

    left = 2

    def dying(pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return describe(pictures)

    for path in images.rglob("*.png"):
        path.with_suffix(".txt").write_text("Mine.\n")
    with pytest.raises(Killed):
        caption(images, None, "txt", work=dying, overwrite=True, batch_size=2)
    assert list(texts(images).values()).count("Mine.\n") == 2
    assert caption(images, None, "txt").done == 2
    assert "Mine.\n" not in texts(images).values()
    assert caption(images, None, "txt").skipped == NUMBER


def test_a_missing_text_file_is_written_without_asking_again(images: Path) -> None:
    caption(images, None, "txt")
    (images / "000.txt").unlink()

    def never(pictures: object) -> list[dict[str, Any]]:
        raise AssertionError

    assert caption(images, None, "txt", work=never).skipped == NUMBER
    assert texts(images)["000.txt"] == "The colour (0, 0, 0).\n"


def test_images_that_would_share_a_text_file_are_refused_each(images: Path) -> None:
    Image.new("RGB", (9, 9)).save(images / "000.jpg")
    said: list[str] = []
    summary = caption(images, None, "txt", progress=lambda done, total, error: said.append(error))
    assert (summary.done, summary.failed) == (NUMBER - 1, 2)
    clashes = sorted(filter(None, said))
    assert clashes[0].startswith("000.jpg and 000.png would share the text file 000.txt")
    assert clashes[1].startswith("000.png and 000.jpg would share")
    assert "000.txt" not in texts(images)
    assert caption(images, images, "metadata").failed == 0


def test_parquet_files_are_read_as_images(images: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    def with_words(pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        words = [{"text": "dog", "object": "dog", "start": 2, "end": 5, "score": 0.5,
                  "flagged": False}]  # fmt: skip
        return [{**one, "plugins": [], "words": words[: n % 2]} for n, one in
                enumerate(describe(pictures))]  # fmt: skip

    caption(images, tmp_path / "out", "parquet", work=with_words)
    table = datasets.Dataset.from_parquet(
        str(tmp_path / "out" / "part-00000.parquet"), cache_dir=tmp_path
    )
    assert isinstance(table.features["image"], datasets.Image)
    row = table[3]
    assert (row["file_name"], row["text"]) == ("more/001.png", "The colour (1, 0, 0).")
    assert row["image"].getpixel((0, 0)) == (1, 0, 0)
    assert row["words"][0]["object"] == "dog" if row["words"] else row["words"] == []
    raw = table.cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert raw == {"bytes": (images / "000.png").read_bytes(), "path": "000.png"}


def test_webdataset_keys_have_no_dots_and_occur_once(images: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("webdataset.tariterators")
    for name in ("000.jpg", "photo.v2.png", "photo_v2.png"):
        Image.new("RGB", (9, 9)).save(images / name)
    caption(images, tmp_path / "out", "webdataset")
    tar = tmp_path / "out" / "captions-000000.tar"
    with tar.open("rb") as stream:
        members = reader.tar_file_expander([{"url": str(tar), "stream": stream}])
        samples = list(reader.group_by_keys(members))
    keys = {sample["__key__"]: json.loads(sample["json"])["file_name"] for sample in samples}
    assert len(samples) == len(keys) == NUMBER + 3
    assert keys["000"] == "000.jpg"
    assert keys["000_2"] == "000.png"
    assert {keys["photo_v2"], keys["photo_v2_2"]} == {"photo.v2.png", "photo_v2.png"}
    first = samples[0]
    assert first["jpg"] == (images / "000.jpg").read_bytes()
    assert first["txt"] == b"The colour (0, 0, 0)."


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_files_of_samples_are_made_again_where_something_changed(
    images: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets" if kind == "parquet" else "webdataset")
    monkeypatch.setattr(shards, "MOST_IMAGES", 2)
    out = tmp_path / "out"
    caption(images, out, kind)
    made = {path.name: path.stat().st_mtime_ns for path in out.glob("*0*")}
    content = {path.name: path.read_bytes() for path in out.glob("*0*")}
    assert len(made) == 3
    first, second, third = sorted(made)
    Image.new("RGB", (9, 9), (90, 0, 0)).save(images / "more" / "005.png")
    (out / second).unlink()
    caption(images, out, kind)
    assert (out / first).stat().st_mtime_ns == made[first]
    assert (out / second).read_bytes() == content[second]
    assert (out / third).read_bytes() != content[third]
    for path in (images / "more").iterdir():
        path.unlink()
    caption(images, out, kind)
    assert sorted(path.name for path in out.glob("*0*")) == [first, second]
    assert not list(out.glob(".*part"))


def test_files_of_samples_keep_images_that_were_named_before(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    out = tmp_path / "out"
    caption(images, out, "webdataset")
    whole = (out / "captions-000000.tar").read_bytes()
    caption(images / "more", out, "webdataset")
    with tarfile.open(out / "captions-000000.tar") as tar:
        assert len(tar.getnames()) == 3 * NUMBER
    caption(images, out, "webdataset")
    assert (out / "captions-000000.tar").read_bytes() == whole
    shutil.copy(out / "captions-000000.tar", tmp_path / "images" / "s.tar")
    other = tmp_path / "other"
    caption(images / "s.tar", other, "webdataset")
    with pytest.raises(VlmHeadsError, match="6 captioned images are in archives that were not"):
        caption(images / "000.png", other, "webdataset")


def test_an_output_that_does_not_go_with_its_format_is_refused(images: Path) -> None:
    for out, kind in (("a.jsonl", "txt"), ("a", "jsonl"), ("a", None), (None, "parquet")):
        with pytest.raises(VlmHeadsError, match="expected a f"):
            caption(images, None if out is None else Path(out), kind)
