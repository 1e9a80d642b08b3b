"""Outputs are found out to be impossible before the work, and what was measured is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlmheads import VlmHeadsError
from vlmheads.output import FIGURES, check_folder, check_output, save, save_text


def test_what_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    read = tmp_path / "read.json"
    read.write_text("{}")
    (tmp_path / "link.json").symlink_to(read)
    for path, message in (
        (tmp_path, "is a folder"),
        (read, "would overwrite what is read"),
        (tmp_path / "link.json", "would overwrite what is read"),
        (tmp_path / "none" / "x.json", "no folder"),
        (Path("/proc/x.json"), "nothing can be written in /proc"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(VlmHeadsError, match=message):
            check_output(path, inputs=[read])
    check_output(tmp_path / "new.json", inputs=[read])
    check_output(None)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "link.json", read]


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.eps", "a.png.txt", ".png"])
def test_a_plot_of_an_unknown_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VlmHeadsError, match=r"expected one of \.png"):
        check_output(tmp_path / name, suffixes=FIGURES)
    check_output(tmp_path / "a.PNG", suffixes=FIGURES)


def test_a_folder_is_made_or_refused(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x", tmp_path / "file", Path("/proc/nowhere")):
        with pytest.raises(VlmHeadsError, match="cannot be made"):
            check_folder(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def torn(place: Path) -> None:
        place.write_text("half")
        raise OSError(28, os.strerror(28))

    with pytest.raises(VlmHeadsError, match=r"result\.json cannot be written \(No space left"):
        save(path, torn)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(VlmHeadsError, match="the result is kept in") as refused:
        save_text(tmp_path / "gone" / "result.json", "figures")
    kept = str(refused.value).rpartition("kept in ")[2]
    assert Path(kept).read_text() == "figures"


def test_a_full_device_is_one_line() -> None:
    with pytest.raises(VlmHeadsError, match="/dev/full cannot be written"):
        save_text(Path("/dev/full"), "figures" * 10_000)
    assert Path("/dev/full").is_char_device()
