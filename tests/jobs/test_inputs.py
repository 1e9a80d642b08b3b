"""What names stand for: files, folders, patterns, lists, and files that hold many images."""

from __future__ import annotations

import os
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from fake_job import paint
from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads.jobs import archives
from vlmheads.jobs.batches import batches
from vlmheads.jobs.inputs import find, items, listed
from vlmheads.jobs.processes import falls_to


def keys(*names: object, root: Path, recursive: bool = False) -> list[str]:
    found = find([str(name) for name in names], recursive=recursive)
    return [item.key for item in items(found, root)]


def test_a_folder_gives_its_images_in_order_and_an_empty_one_an_error(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "d.jfif", "c.jpe", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found = find(map(str, [tmp_path, tmp_path / "empty", tmp_path / "single.png"]))
    names = ("a.JPG", "b.png", "c.jpe", "d.jfif", "single.png")
    assert found.files == [tmp_path / name for name in names]
    ((name, problem),) = found.problems
    assert name == str(tmp_path / "empty")
    assert "holds no image" in str(problem)


def test_what_is_left_out_is_counted_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert find([str(tmp_path)]).notice() == ""
    for name in ("b.txt", "c.txt", "d.pdf", "README", ".hidden", "e.tar"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / ".vlmheads").mkdir()
    found = find([str(tmp_path), str(tmp_path / "a.png")])
    assert found.notice() == (
        "left out: 4 files without an image suffix (.txt, .pdf, no suffix) "
        "and 2 folders inside those named (--recursive enters them) and 1 hidden file "
        "and 1 file of many images, beside images (.tar) and 1 image named twice"
    )
    assert found.files == [tmp_path / "a.png"]


def test_folders_are_entered_on_request_and_circles_are_not_walked(tmp_path: Path) -> None:
    paint(tmp_path, 3)
    (tmp_path / "more" / "again").symlink_to(tmp_path)
    assert keys(tmp_path, root=tmp_path) == ["000.png", "002.png"]
    found = find([str(tmp_path)], recursive=True)
    assert [item.key for item in items(found, tmp_path)] == ["000.png", "002.png", "more/001.png"]
    assert found.notice() == "left out: 1 link to a folder around it"


def test_patterns_are_matched_here_where_the_shell_was_not_to(tmp_path: Path) -> None:
    paint(tmp_path, 4)
    (tmp_path / "notes.txt").touch()
    assert keys(f"{tmp_path}/*.*", root=tmp_path) == ["000.png", "002.png"]
    every = ["000.png", "002.png", "more/001.png", "more/003.png"]
    assert keys(f"{tmp_path}/*", root=tmp_path) == every  # a folder that it matches is named
    assert keys(f"{tmp_path}/**/*.png", root=tmp_path) == every
    (problem,) = find([f"{tmp_path}/*.jpg"]).problems
    assert "no file matches" in str(problem[1])
    (tmp_path / "[1].png").touch()  # a name that is there is no pattern
    assert keys(tmp_path / "[1].png", root=tmp_path) == ["[1].png"]


def test_a_list_has_a_path_a_line_or_one_between_zeros() -> None:
    assert listed(b"a.png\nb c.png\r\n\n") == ["a.png", "b c.png"]
    assert listed(b"a.png\0with\nnewline.png\0") == ["a.png", "with\nnewline.png"]


def test_a_name_that_is_not_utf_8_is_a_problem_of_that_image(tmp_path: Path) -> None:
    paint(tmp_path, 1)
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    good, bad = items(find([str(tmp_path)]), tmp_path)
    assert good.problem is None
    assert bad.key == r"caf\xe9.png"
    assert "not UTF-8" in str(bad.problem)


def test_what_is_no_file_is_a_problem_when_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (("none.png", "no file"), ("pipe.png", "is not a file")):
        (item,) = items(find([str(tmp_path / name)]), tmp_path)
        with pytest.raises(VlmHeadsError, match=message):
            item.read()


def png(red: int) -> bytes:
    content = BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(content, "png")
    return content.getvalue()


def make_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))


def test_a_tar_gives_the_image_of_each_sample(tmp_path: Path) -> None:
    members = {"a.png": png(1), "a.txt": b"one", "a.mask.png": png(2), "x.d/b.PNG": png(3)}
    make_tar(tmp_path / "s.tar", members)
    found = list(items(find([str(tmp_path)]), tmp_path))
    assert {item.key: item.content for item in found} == {
        "s.tar/a.png": png(1),
        "s.tar/x.d/b.PNG": png(3),
    }
    assert archives.number_of_images(tmp_path / "s.tar") == 2


def test_a_member_that_leads_out_of_its_tar_is_refused(tmp_path: Path) -> None:
    make_tar(tmp_path / "s.tar", {"../../a.png": png(1), "b.png": png(2)})
    bad, good = items(find([str(tmp_path / "s.tar")]), tmp_path)
    assert good.problem is None
    with pytest.raises(VlmHeadsError, match="leads elsewhere"):
        bad.read()


@pytest.mark.parametrize("cut", [1100, 1300, 1600])
def test_a_tar_that_is_cut_short_gives_what_precedes(tmp_path: Path, cut: int) -> None:
    make_tar(tmp_path / "s.tar", {f"{n}.png": png(n) for n in range(3)})
    content = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(content[:cut])
    *whole, damaged = items(find([str(tmp_path / "s.tar")]), tmp_path)
    assert [item.key for item in whole] == ["s.tar/0.png"]
    assert "s.tar cannot be read further" in str(damaged.problem)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "tables"
    folder.mkdir()
    images = [{"bytes": png(n), "path": "same.png"} for n in range(3)]
    table = datasets.Dataset.from_dict(
        {"image": images, "label": ["a", "b", "c"]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
    )
    table.to_parquet(folder / "train.parquet")
    return folder


def test_a_parquet_file_gives_its_column_of_images(tables: Path) -> None:
    found = list(items(find([str(tables)]), tables))
    assert [item.key for item in found] == [f"train.parquet/{n:08d}" for n in range(3)]
    assert found[2].read() == png(2)
    assert archives.number_of_images(tables / "train.parquet") == 3


def test_a_dataset_that_was_saved_is_read_by_split(tables: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_parquet(str(tables / "train.parquet"), cache_dir=tmp_path)
    datasets.DatasetDict(train=table, test=table).save_to_disk(str(tmp_path / "saved"))
    found = list(items(find([str(tmp_path / "saved")]), tmp_path / "saved"))
    assert [item.key for item in found][2:4] == ["train/00000002", "test/00000000"]


def test_a_column_that_holds_no_images_is_named(tables: Path) -> None:
    (item,) = items(find([str(tables)]), tables, column="label")
    assert "no column 'label' of images among image, label" in str(item.problem)


def test_a_reader_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "webdataset.tariterators", None)
    with pytest.raises(VlmHeadsError, match=r"needs webdataset, .*pip install .*jobs"):
        list(archives.read_archive(Path("s.tar")))


def test_batches_hold_images_of_about_one_size_within_the_budget(tmp_path: Path) -> None:
    sides = (10, 90, 20, 80, 30, 70)
    for index, side in enumerate(sides):
        Image.new("RGB", (side, side)).save(tmp_path / f"{index}.png")
    found = find([str(tmp_path)])

    def widths(**options: object) -> list[list[int]]:
        made = batches(items(found, tmp_path), 3, workers=2, **options)  # type: ignore[arg-type]
        return [[one.image.width for one in batch if one.image] for batch in made]

    assert widths() == [[90, 80, 70], [30, 20, 10]]
    assert widths(by_size=False) == [[10, 90, 20], [80, 30, 70]]
    assert widths(budget=160, cost=lambda size: size[0]) == [[90], [80, 70], [30, 20, 10]]
    assert widths(budget=50, cost=lambda size: size[0]) == [[90], [80], [70], [30], [20, 10]]


class Process:
    def __init__(self, process_index: int, num_processes: int) -> None:
        self.process_index, self.num_processes = process_index, num_processes

    def wait_for_everyone(self) -> None:
        pass


def test_every_image_falls_to_one_process_whatever_the_listing() -> None:
    names = [f"folder/{n}.png" for n in range(200)]
    shares = [{name for name in names if falls_to(name, Process(rank, 3))} for rank in range(3)]
    assert sorted(name for share in shares for name in share) == sorted(names)
    assert all(40 < len(share) < 95 for share in shares)
