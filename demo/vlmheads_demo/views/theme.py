"""The look of the page: quiet, readable in light and dark, from nothing but local files."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from vlmheads.plotting.palette import DARK, LIGHT, variables

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")


def asset(name: str) -> str:
    """Return the text of a file of `assets/`."""
    return (files("vlmheads_demo") / "assets" / name).read_text("utf-8")


def style() -> str:
    """Return the style sheet of the page, with the colours of the figures in it."""
    return f":root{{{variables(LIGHT)}}}.dark{{{variables(DARK)}}}{asset('page.css')}"


def theme() -> Any:
    """Return Gradio's theme with the colours of the figures and fonts that need no network."""
    import gradio as gr

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
