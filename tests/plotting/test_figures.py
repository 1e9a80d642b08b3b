"""Figures show the values they are given, with labelled axes, in the colours of a theme."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from vlmheads import VlmHeadsError
from vlmheads.plotting.drawing import as_png, as_svg
from vlmheads.plotting.figures import (
    Interval,
    Run,
    bars_figure,
    frontier_figure,
    intervals_figure,
    lines_figure,
)
from vlmheads.plotting.maps import head_map_figure, overlay_figure, overlay_image
from vlmheads.plotting.palette import DARK, LIGHT, OVERLAY

CUT = [(10.0, 5.0, 1), (20.0, 12.0, 2), (30.0, 20.0, 3)]
RUNS = {
    0: Run("plain", Interval(28, 30, 32), Interval(18, 20, 22)),
    2: Run("vhr", Interval(29, 31, 33), Interval(10, 12, 15)),
}


def frontier(theme: str = "light"):
    return frontier_figure(CUT, RUNS, "recall (%)", "CHAIR_I (%)", theme=theme)


def test_a_map_of_values_above_0_has_the_sequential_colours() -> None:
    drawn = head_map_figure(torch.tensor([[0.5, 1.0], [2.0, 3.0]]), "VHD").axes[0].images[0]
    assert drawn.get_cmap().name == "cividis"
    assert drawn.get_clim() == (0.5, 3.0)


@pytest.mark.parametrize(
    ("values", "centre", "expected"),
    [([[-1.0, 3.0]], None, (-3.0, 3.0)), ([[0.7, 1.1]], 1.0, (0.7, 1.3)), ([[0.0]], 0.0, (-1, 1))],
)
def test_a_signed_map_has_its_neutral_colour_at_the_centre(values, centre, expected) -> None:
    drawn = head_map_figure(torch.tensor(values), "effect", centre=centre).axes[0].images[0]
    assert drawn.get_clim() == pytest.approx(expected)
    middle = 255 * np.array(drawn.get_cmap()(0.5)[:3])
    assert middle == pytest.approx([0xF5] * 3, abs=1.5)


def test_chosen_heads_are_outlined_where_they_are() -> None:
    figure = head_map_figure(torch.rand(3, 4), "VHD", chosen=[(2, 1)])
    assert {patch.get_xy() for patch in figure.axes[0].patches} == {(0.5, 1.5)}


def test_the_scale_beside_a_map_names_its_unit() -> None:
    figure = head_map_figure(torch.rand(3, 4), "VHD (length)")
    assert figure.axes[1].get_ylabel() == "VHD (length)"


def test_an_overlay_is_the_more_opaque_the_larger_the_value() -> None:
    picture = Image.new("RGB", (8, 8), "white")
    found = overlay_image(picture, torch.tensor([[0.0, 1.0], [0.5, 0.0]]))
    assert found.size == (8, 8)
    assert found.getpixel((0, 0)) == (255, 255, 255)
    strong, weak = found.getpixel((7, 0)), found.getpixel((0, 7))
    assert strong[2] < weak[2] < 255
    assert strong[0] == int(OVERLAY[1:3], 16) == 255


def test_an_overlay_of_nothing_leaves_the_picture_without_its_colours() -> None:
    picture = Image.new("RGB", (4, 4), (200, 100, 0))
    red, _, blue = overlay_image(picture, torch.zeros(2, 2)).getpixel((0, 0))
    assert 0 < red - blue < 100


def test_an_overlay_figure_holds_the_values_over_the_picture() -> None:
    values = torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    axes = overlay_figure(Image.new("RGB", (40, 30)), values, "weight").axes[0]
    assert axes.images[1].get_array().tolist() == values.tolist()
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "column of image tokens",
        "row of image tokens",
    )


def test_the_frontier_has_every_cut_and_every_run_in_its_own_colour() -> None:
    axes = frontier().axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["baseline, cut after n sentences"].get_xdata().tolist() == [10, 20, 30]
    assert to_hex(lines["plain"].get_color()).upper() == LIGHT.categories[0]
    assert to_hex(lines["vhr"].get_color()).upper() == LIGHT.categories[2]
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3"]


def test_a_bar_stands_for_every_value_that_is_there() -> None:
    figure = bars_figure(["fork", "cup"], {"plain": [3, None], "vhr": [1, 2]}, "in 100 captions")
    widths = [int(bar.get_width()) for bar in figure.axes[0].patches]
    assert [width for width in widths if width] == [3, 1, 2]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["fork", "cup"]


def test_intervals_reach_from_their_low_to_their_high_end() -> None:
    figure = intervals_figure(["VHR"], {"CHAIR_I": [Interval(-12, -9, -7)]}, "points")
    (reach,) = [line.get_segments() for line in figure.axes[0].collections]
    assert reach[0][:, 0].tolist() == [-12, -7]


def test_lines_leave_out_what_was_not_measured() -> None:
    figure = lines_figure([1, 2, 3], {"VHR": [4.0, None, Interval(1, 2, 3)]}, "alpha", "CHAIR_I")
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 3]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [4, 2]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_a_theme_colours_everything(theme) -> None:
    figure = frontier(theme.name)
    assert to_hex(figure.get_facecolor()).upper() == theme.background
    assert to_hex(figure.axes[0].xaxis.label.get_color()).upper() == theme.text
    assert as_png(figure).startswith(b"\x89PNG")


def test_an_svg_has_its_text_as_text_and_follows_the_colours_of_the_page() -> None:
    text = as_svg(frontier(), 'runs & "cuts"')
    root = ElementTree.fromstring(text)
    assert root.attrib["aria-label"] == 'runs & "cuts"'
    assert "recall (%)" in {element.text for element in root.iter() if element.tag.endswith("text")}
    assert not re.search(r"(?<!, )#[0-9a-fA-F]{6}", text)
    assert "<style" not in text
    assert "width" not in root.attrib


def test_the_same_figure_is_the_same_svg() -> None:
    assert as_svg(frontier(), "runs") == as_svg(frontier(), "runs")


def test_figures_need_matplotlib_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(VlmHeadsError, match=r"matplotlib is not installed.*\[figures\]"):
        frontier()
    picture = Image.new("RGB", (4, 4))
    assert overlay_image(picture, torch.ones(2, 2)).size == (4, 4)
