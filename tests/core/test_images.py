"""Image files as people have them: odd kinds are read, what is none is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmheads import VlmHeadsError
from vlmheads.images import find_images, read_image


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


def test_a_folder_gives_its_images_in_order_and_an_empty_one_an_error(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found = list(find_images([tmp_path, tmp_path / "empty", tmp_path / "single.png"]))
    assert found[:2] == [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert isinstance(found[2], VlmHeadsError)
    assert "holds no image" in str(found[2])
    assert found[3] == tmp_path / "single.png"
