"""Images as requests carry them."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from pathlib import Path

from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads.images import decode_image, quiet_reading

# What every server reads.
TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
MOST_BYTES = 20 * 1024 * 1024
_ORIENTATION = 0x0112


def data_url(content: bytes, name: str) -> str:
    """Return an image file as a data URL.

    A JPEG, PNG or WebP file is sent as it is, since to encode it anew changes what models say.
    Other files, and those that servers read in different ways (turned by their metadata,
    transparent, animated, 16 bits, not RGB), are sent as a PNG of what a local model is shown.

    Args:
        content: the bytes of the file.
        name: what error messages call it.

    Raises:
        VlmHeadsError: no image, a damaged one, or more than 20 MB.
    """
    picture = decode_image(content, name)
    with Image.open(BytesIO(content)) as image:
        kind = TYPES.get(image.format or "")
        plain = kind is not None and image.mode in ("RGB", "L")
        plain = plain and "transparency" not in image.info
        plain = plain and getattr(image, "n_frames", 1) == 1 and _turn(image) == 1
    if not plain or kind is None:
        return data_url_of(picture, name)
    return _url(kind, content, name)


def data_url_of(picture: Image.Image, name: str = "the image") -> str:
    """Return a picture as the data URL of a PNG."""
    file = BytesIO()
    picture.save(file, "PNG")
    return _url(TYPES["PNG"], file.getvalue(), name)


def read_data_url(path: Path) -> str:
    """Read an image file as a data URL; see `data_url`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VlmHeadsError(f"{path} cannot be read ({error.strerror})", "an image file") from error
    with quiet_reading():
        return data_url(content, str(path))


def _turn(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata; servers may read it in other ways
        return 0


def _url(kind: str, content: bytes, name: str) -> str:
    if len(content) > MOST_BYTES:
        raise VlmHeadsError(
            f"{name} takes {len(content) / 2**20:.1f} MB",
            f"at most {MOST_BYTES // 2**20} MB for a request",
            "make it smaller",
        )
    return f"data:{kind};base64,{b64encode(content).decode('ascii')}"
