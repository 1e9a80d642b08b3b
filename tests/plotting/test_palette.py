"""The colours of figures can be told apart, also by those who see fewer of them."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from vlmheads import VlmHeadsError
from vlmheads.plotting import palette
from vlmheads.plotting.palette import DARK, LIGHT, Theme

Colour = NDArray[np.float64]
THEMES = [LIGHT, DARK]

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SIGHTS: dict[str, Colour] = {
    "full": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
# Ottosson 2020: linear RGB to cone responses, and their cube roots to OKLab.
CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def linear(colour: str) -> Colour:
    share = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio of luminances."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(weights @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def seen(colour: str, sight: str) -> Colour:
    """Where a colour lies in OKLab for a reader of that sight."""
    light = np.clip(SIGHTS[sight] @ linear(colour), 0, 1)
    found: Colour = OKLAB @ np.cbrt(CONES @ light)
    return found


def distance(one: str, other: str, sight: str) -> float:
    return float(np.linalg.norm(seen(one, sight) - seen(other, sight)))


def test_the_simulation_knows_red_and_green_that_a_deuteranope_confuses() -> None:
    red, green = "#B35A00", "#7F7F00"
    assert distance(red, green, "full") > 0.1
    assert distance(red, green, "deuteranopia") < 0.5 * distance(red, green, "full")


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("sight", SIGHTS)
def test_any_two_categories_differ_for_every_sight(theme: Theme, sight: str) -> None:
    least = min(distance(*pair, sight) for pair in combinations(theme.categories, 2))
    assert least > 0.1


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_categories_and_marks_stand_out_from_the_background(theme: Theme) -> None:
    for colour in (*theme.categories, theme.supported, theme.unsupported):
        assert contrast(colour, theme.background) >= 3


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_text_can_be_read_on_the_background(theme: Theme) -> None:
    assert contrast(theme.text, theme.background) >= 7
    for colour in (theme.muted, theme.supported, theme.unsupported):
        assert contrast(colour, theme.background) >= 4.5


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("sight", SIGHTS)
def test_what_the_picture_supports_looks_unlike_what_it_does_not(theme: Theme, sight: str) -> None:
    assert distance(theme.supported, theme.unsupported, sight) > 0.15


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("sight", SIGHTS)
def test_the_signed_map_has_even_steps_and_ends_that_differ(theme: Theme, sight: str) -> None:
    steps = [distance(*pair, sight) for pair in pairwise(theme.diverging)]
    assert max(steps) < 1.35 * min(steps)
    assert distance(theme.diverging[0], theme.diverging[-1], sight) > 0.18


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_sequential_map_has_even_steps_and_grows_lighter(sight: str) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    places = np.linspace(0, 1, 9)
    stops = [to_hex(colormaps[palette.SEQUENTIAL](place)) for place in places]
    steps = [distance(*pair, sight) for pair in pairwise(stops)]
    lightness = [seen(stop, sight)[0] for stop in stops]
    assert lightness == sorted(lightness)
    assert max(steps) < 2 * min(steps)


def test_colours_and_marks_together_name_more_runs_than_a_figure_holds() -> None:
    looks = {(palette.category(run), palette.MARKS[run % len(palette.MARKS)]) for run in range(42)}
    assert len(looks) == 42


def test_the_style_sheet_holds_both_themes_and_lets_the_page_choose() -> None:
    sheet = palette.style_sheet()
    assert f"--figure-text:{LIGHT.text}" in sheet
    assert f"--figure-text:{DARK.text}" in sheet
    assert "prefers-color-scheme:dark" in sheet
    assert ':root[data-theme="dark"]' in sheet


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_no_two_names_share_a_colour_so_that_each_can_become_a_variable(theme: Theme) -> None:
    colours = palette.named(theme)
    assert len(set(colours.values())) == len(colours)


def test_an_unknown_theme_is_refused_by_name() -> None:
    with pytest.raises(VlmHeadsError, match="theme 'sepia'; expected light or dark"):
        palette.theme("sepia")
