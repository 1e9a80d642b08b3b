from __future__ import annotations

import pytest
import torch
from PIL import Image
from vlmheads_demo.services.images import MAX_BYTES, draw_scene, read_upload, uploaded_file

from vlmheads import VlmHeadsError


@pytest.mark.parametrize(
    "path", ["../outside.png", "link.png", "nothing.png", ".", "x/../../outside.png"]
)
def test_no_file_outside_the_uploads_is_read(state, path):
    with pytest.raises(VlmHeadsError, match="not uploaded here"):
        uploaded_file(state.uploads, f"{state.uploads}/{path}")
    with pytest.raises(VlmHeadsError, match="not uploaded here"):
        uploaded_file(state.uploads, str(state.uploads.parent / "outside.png"))
    assert uploaded_file(state.uploads, str(state.uploads / "inside.png")) is not None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_every_mode_are_read(tmp_path, mode):
    suffix = ".tiff" if mode in ("CMYK", "F", "I;16") else ".png"
    path = tmp_path / f"x{suffix}"
    Image.new(mode, (30, 20)).save(path)
    assert (read_upload(path).mode, read_upload(path).size) == ("RGB", (30, 20))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif", ".bmp", ".ppm", ".ico", ".jp2"])
def test_pictures_of_every_format_are_read(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    Image.new("RGB", (32, 32), "green").save(path)
    assert read_upload(path).size == (32, 32)


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (10_000, 5_000)).save(path)
    with pytest.raises(VlmHeadsError, match=r"huge\.png has 10000 x 5000 pixels") as error:
        read_upload(path)
    assert str(tmp_path) not in str(error.value)


def test_a_file_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "large.bmp"
    path.write_bytes(b"BM" + bytes(MAX_BYTES))
    with pytest.raises(VlmHeadsError, match=r"large\.bmp has 20\.0 MB"):
        read_upload(path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_a_file_that_is_not_a_picture_is_refused_by_name(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(VlmHeadsError, match=r"^x\.png") as error:
        read_upload(path)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("name", ["x.png", "x.eps", "x.jpg", "x"])
def test_an_upload_never_reaches_ghostscript(tmp_path, monkeypatch, name):
    def reached(*_):
        raise AssertionError("the reader of EPS was asked")

    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile._open", reached)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", reached)
    path = tmp_path / name
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(VlmHeadsError, match=f"^{name} is not a picture"):
        read_upload(path)


def test_the_picture_shown_is_the_one_the_model_sees(result):
    view = result.prompt_measured.view
    assert view.grid == (8, 8)
    assert view.exact
    drawn = draw_scene(result.scene).image
    difference = torch.tensor(list(view.image.tobytes())) - torch.tensor(list(drawn.tobytes()))
    assert int(difference.abs().max()) <= 1


@pytest.mark.parametrize("name", ["train:1", "test:-1", "../test:1", "test:1234567", None])
def test_an_unknown_scene_is_refused(name):
    with pytest.raises(VlmHeadsError, match="expected test:N or counterfactual:N"):
        draw_scene(name)
