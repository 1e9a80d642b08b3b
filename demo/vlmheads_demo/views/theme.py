"""The appearance of the page: theme, style sheet, colours, and pictures as data URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.resources import files

import gradio as gr
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmheads.plotting.drawing import MOST_OPAQUE
from vlmheads.plotting.palette import DARK, LIGHT, OVERLAY, SEQUENTIAL, variables

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")


def asset(name: str) -> str:
    """Return the text of a file in `assets/`."""
    return (files("vlmheads_demo") / "assets" / name).read_text("utf-8")


def style() -> str:
    """Return the style sheet of the page, with the colours of the figures as variables."""
    return f":root{{{variables(LIGHT)}}}.dark{{{variables(DARK)}}}{asset('page.css')}"


def theme() -> gr.themes.Base:
    """Return a Gradio theme with the colours of the figures and fonts that need no network."""
    blue = gr.themes.colors.Color(
        "#EFF6FB", "#DCECF6", "#BAD9ED", "#8FC0E0", "#559FCD", "#0875B5", "#06639A", "#06527F",
        "#084565", "#0A3A54", "#072739",
    )  # fmt: skip
    return gr.themes.Base(
        primary_hue=blue,
        secondary_hue=blue,
        neutral_hue="slate",
        font=list(SANS),
        font_mono=list(MONO),
        radius_size="md",
        text_size="md",
    ).set(
        body_background_fill="#F6F8FA",
        body_background_fill_dark=DARK.background,
        body_text_color=LIGHT.text,
        body_text_color_dark=DARK.text,
        body_text_color_subdued="#57606A",
        body_text_color_subdued_dark="#A9B1BC",
        background_fill_primary="#FFFFFF",
        background_fill_primary_dark="#1B212B",
        background_fill_secondary="#F6F8FA",
        background_fill_secondary_dark="#161B23",
        block_background_fill="#FFFFFF",
        block_background_fill_dark="#1B212B",
        block_label_text_color="#3B4248",
        block_label_text_color_dark="#C9D0D8",
        block_title_text_color=LIGHT.text,
        block_title_text_color_dark=DARK.text,
        block_title_text_weight="600",
        block_info_text_color="#57606A",
        block_info_text_color_dark="#A9B1BC",
        block_shadow="none",
        input_background_fill="#FFFFFF",
        input_background_fill_dark="#12161D",
        input_border_width="1px",
        input_border_color="#C3CAD2",
        input_border_color_dark="#465060",
        input_placeholder_color="#6B7178",
        input_placeholder_color_dark="#9AA1AB",
        border_color_primary="#D5DAE0",
        border_color_primary_dark="#343C48",
        button_primary_background_fill="#0875B5",
        button_primary_background_fill_hover="#06639A",
        button_primary_background_fill_dark="#55B5FA",
        button_primary_background_fill_hover_dark="#7CC6FB",
        button_primary_text_color="#FFFFFF",
        button_primary_text_color_dark="#0A1621",
        slider_color="#0875B5",
        slider_color_dark="#55B5FA",
        color_accent="#0875B5",
    )


def overlay_url(values: Tensor, grid: tuple[int, int]) -> str:
    """Return values [P] as an image of one pixel per token, to draw over the model's picture.

    Larger values are more opaque; the largest is as opaque as in the figures.
    """
    scaled = (values / values.max().clamp(min=1e-12)).clamp(0, 1).reshape(grid)
    red, green, blue = (int(OVERLAY[at : at + 2], 16) for at in (1, 3, 5))
    pixels = np.zeros((*grid, 4), dtype=np.uint8)
    pixels[..., :3] = red, green, blue
    pixels[..., 3] = (scaled * MOST_OPAQUE * 255).round().to(torch.uint8).numpy()
    return image_url(Image.fromarray(pixels), "PNG")


def image_url(image: Image.Image, kind: str) -> str:
    """Return an image as a data URL; `kind` is PNG or JPEG."""
    data = io.BytesIO()
    image.save(data, format=kind, **({"quality": 88} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def map_colours(values: Sequence[float], low: float, high: float) -> list[str]:
    """Return the colour of each value on the colour map of the figures, as "#RRGGBB"."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    span = (high - low) or 1.0
    return [to_hex(colormaps[SEQUENTIAL]((value - low) / span)) for value in values]
