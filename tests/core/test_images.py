"""Image files as people have them: odd kinds are read, what is none is refused in one line."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vlmheads import VlmHeadsError
from vlmheads.images import (
    FORMATS,
    as_rgb,
    image_suffixes,
    load_image,
    read_image,
)


@pytest.fixture
def colours() -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    return image


def near(pixel: tuple[int, ...], expected: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(pixel, expected, strict=True))


RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "png"), ("RGB", "jpg"), ("CMYK", "jpg"), ("P", "gif")]
)
def test_colours_survive(colours: Image.Image, tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    colours.convert(mode).save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 10))
    assert near(image.getpixel((3, 5)), RED) or suffix == "jpg"
    assert image.getpixel((3, 5))[0] > 150 > image.getpixel((16, 5))[0]


def test_a_grey_image_is_read(colours: Image.Image, tmp_path: Path) -> None:
    colours.convert("L").save(tmp_path / "grey.png")
    pixel = read_image(tmp_path / "grey.png").getpixel((3, 5))
    assert pixel == (76, 76, 76)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(8, 0)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    image = np.asarray(read_image(tmp_path / "deep.png"))[0, :, 0]
    assert (image[0], image[-1]) == (0, 255)
    assert 120 < image[32] < 136


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 8))
    image.save(tmp_path / "clear.png")
    found = read_image(tmp_path / "clear.png")
    assert found.getpixel((1, 4)) == RED
    assert found.getpixel((6, 4)) == WHITE


def test_the_first_frame_of_an_animation_is_taken(colours: Image.Image, tmp_path: Path) -> None:
    other = Image.new("RGB", colours.size, "green")
    colours.save(tmp_path / "moving.gif", save_all=True, append_images=[other], duration=50)
    assert near(read_image(tmp_path / "moving.gif").getpixel((3, 5)), RED)


def test_the_rotation_of_a_camera_is_applied(colours: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    colours.save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png")
    assert found.size == (10, 20)
    assert near(found.getpixel((5, 3)), RED)
    assert near(found.getpixel((5, 16)), BLUE)


@pytest.mark.parametrize("orientation", range(10))
def test_every_rotation_is_that_of_pillow(orientation: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        found, expected = as_rgb(image), ImageOps.exif_transpose(image)
    assert (found.size, found.tobytes()) == (expected.size, expected.tobytes())
    assert ImageOps.exif_transpose(found).tobytes() == found.tobytes(), "turned only once"


def damaged_exif(seed: int) -> bytes:
    """The metadata of a photograph with three bytes overwritten."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    exif.get_ifd(0x8769)[0x9003] = "2020"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    data = bytearray(exif.tobytes())
    draws = np.random.default_rng(seed)
    for place in draws.integers(6, len(data), 3):
        data[place] = draws.choice([0, 1, 2, 3, 4, 5, 7, 9, 10, 12, 255])
    return bytes(data)


def test_damaged_metadata_does_not_lose_the_picture(colours: Image.Image, tmp_path: Path) -> None:
    sizes = []
    for seed in range(300):
        colours.save(tmp_path / "photo.jpg", exif=damaged_exif(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sizes.append(read_image(tmp_path / "photo.jpg").size)
    assert set(sizes) == {(20, 10), (10, 20)}
    assert sizes.count((10, 20)) > 150, "most still hold their rotation"


def test_orientation_is_applied_next_to_a_tag_of_a_wrong_type(
    colours: Image.Image, tmp_path: Path
) -> None:
    tags = [(0x0112, 3, 1, 6), (0x8769, 3, 1, 999), (0x010F, 12, 1, 7)]  # no such directory
    data = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
    data += b"".join(struct.pack("<HHLL", *tag) for tag in tags) + bytes(4)
    colours.save(tmp_path / "photo.jpg", exif=data)
    assert read_image(tmp_path / "photo.jpg").size == (10, 20)


def shades(path: Path) -> list[int]:
    return np.asarray(read_image(path))[0, :, 0].tolist()


RAMP = np.array([0.0, 0.25, 0.5, 1.0])
SHADES = [0, 64, 128, 255]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_values_of_fewer_bits_in_a_deep_file_are_scaled(bits: int, tmp_path: Path) -> None:
    ramp = (RAMP * (2**bits - 1)).round().astype(np.uint16)[None].repeat(8, 0)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert np.allclose(shades(tmp_path / "deep.png"), SHADES, atol=1)


@pytest.mark.parametrize(
    "ramp",
    [RAMP, RAMP * 255, RAMP * 4095, RAMP * 1e6, RAMP * 2000 - 1000],
    ids=["0 to 1", "8 bits", "12 bits", "0 to a million", "-1000 to 1000"],
)
def test_floats_are_scaled_by_their_range(ramp: np.ndarray, tmp_path: Path) -> None:
    picture = ramp.astype(np.float32)[None].repeat(8, 0)
    Image.fromarray(picture).save(tmp_path / "float.tif")
    assert np.allclose(shades(tmp_path / "float.tif"), SHADES, atol=1)
    assert np.allclose(np.asarray(as_rgb(picture))[0, :, 0], SHADES, atol=1)


def test_a_nan_is_one_black_pixel(tmp_path: Path) -> None:
    picture = np.full((8, 8), 0.5, dtype=np.float32)
    picture[0, 0], picture[0, 1], picture[0, 2] = np.nan, np.inf, -np.inf
    Image.fromarray(picture).save(tmp_path / "hole.tif")
    assert shades(tmp_path / "hole.tif") == [0, 255, 0, 128, 128, 128, 128, 128]
    with pytest.raises(VlmHeadsError, match="holds no finite value"):
        as_rgb(np.full((8, 8), np.nan))


@pytest.mark.parametrize(
    ("values", "corner"),
    [
        (np.full((8, 9, 3), 200, np.uint8), (200, 200, 200)),
        (np.full((8, 9), 200, np.int64), (200, 200, 200)),
        (np.full((8, 9, 1), 0.5), (128, 128, 128)),
        (np.full((8, 9, 3), 4095, np.uint16), (255, 255, 255)),
        (np.ones((8, 9), bool), (255, 255, 255)),
        (np.zeros((8, 9, 4), np.uint8), (255, 255, 255)),  # transparent
    ],
)
def test_an_array_is_an_image(values: np.ndarray, corner: tuple[int, ...]) -> None:
    image = load_image(values)
    assert (image.mode, image.size) == ("RGB", (9, 8))
    assert image.getpixel((0, 0)) == corner


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros((3, 8, 9)), r"shape 3x8x9.*transpose\(1, 2, 0\)"),
        (np.zeros((8, 9, 2)), "shape 8x9x2"),
        (np.zeros((8, 9), complex), "complex128"),
        (np.zeros((8, 9), object), "object"),
        (b"bytes", "a bytes in place of an image"),
        (None, "a NoneType in place of an image"),
        (np.zeros((2, 9)), "is 9x2"),
    ],
)
def test_what_is_not_an_image_is_refused_by_type(item: object, message: str) -> None:
    with pytest.raises(VlmHeadsError, match=message) as refusal:
        load_image(item)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"


def test_no_reader_that_runs_a_program_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: asked.append(a))
    (tmp_path / "image.png").write_bytes(POSTSCRIPT)
    with pytest.raises(VlmHeadsError, match="is not an image"):
        read_image(tmp_path / "image.png")
    with Image.open(io.BytesIO(POSTSCRIPT)) as image:  # what would have happened
        assert image.format == "EPS"
    assert asked == []
    assert not {"EPS", "WMF", "MPEG", "PDF"} & set(FORMATS)


def bomb(path: Path) -> None:
    """A PNG whose header claims 30,000 x 30,000 pixels."""
    Image.new("L", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no file"),
        (lambda path: path.write_text("hello"), "is not an image"),
        (lambda path: path.write_bytes(b""), "is not an image"),
        (truncated, "cannot be read"),
        (lambda path: Image.new("RGB", (1, 1)).save(path), "is 1x1.*at least 4 pixels"),
        (lambda path: Image.new("RGB", (600, 5)).save(path), "is 600x5.*ratio of at most 50"),
        (bomb, "too many pixels.*at most"),
    ],
    ids=["missing", "text", "empty", "truncated", "1x1", "extreme ratio", "bomb"],
)
def test_what_is_no_usable_image_is_refused(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "image.png"
    make(path)  # type: ignore[operator]
    with pytest.raises(VlmHeadsError, match=message) as refusal:
        read_image(path)
    assert "\n" not in str(refusal.value)


def test_suffixes_are_those_of_the_formats_that_are_read() -> None:
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".webp"} <= image_suffixes()
    assert not {".eps", ".pdf", ".txt", ".gz"} & image_suffixes()
