"""The colours of every figure, as data: light and dark, safe for colour-blind readers.

The categories begin from the hues of Okabe and Ito (Color Universal Design, 2008). Their lightness
was then chosen so that, on each background, every colour has a contrast of at least 3 and any two
differ by at least 0.1 in OKLab, for full colour vision, protanopia and deuteranopia alike.
tests/plotting/test_palette.py holds them to that. Figures never tell by colour alone: runs have
marks of their own as well.
"""

from dataclasses import dataclass

from vlmheads.errors import VlmHeadsError


@dataclass(frozen=True)
class Theme:
    """The colours of figures on one background, all as "#RRGGBB".

    Args:
        name: "light" or "dark".
        background: what everything is drawn on.
        text: titles and labels.
        muted: ticks, axes and background elements, such as a frontier.
        grid: lines behind the data.
        categories: the baseline's colour first, then one per method.
        diverging: from the most negative value over zero to the most positive, evenly spaced in
            OKLab; zero is near the background.
        supported: marks of what the picture supports.
        unsupported: marks of what it does not.
    """

    name: str
    background: str
    text: str
    muted: str
    grid: str
    categories: tuple[str, ...]
    diverging: tuple[str, ...]
    supported: str
    unsupported: str


LIGHT = Theme(
    name="light",
    background="#FFFFFF",
    text="#1F2328",
    muted="#6B7178",
    grid="#E6E8EB",
    categories=("#333333", "#0875B5", "#E66E22", "#1DA77C", "#8E4D72", "#925C09", "#4F9BC7"),
    diverging=(
        *("#0068A4", "#4584B6", "#72A0C6", "#9EBCD6", "#C9D8E6", "#F5F5F5"),
        *("#E5D2C8", "#D4AF9D", "#C28D72", "#AF6B48", "#9A4816"),
    ),
    supported="#006CAD",
    unsupported="#C2500B",
)
DARK = Theme(
    name="dark",
    background="#14181F",
    text="#E8EAED",
    muted="#9AA1AB",
    grid="#2B313B",
    categories=("#F2F3F5", "#2987C9", "#BA5719", "#5AD5A6", "#9B4D7A", "#E9A20D", "#55B5FA"),
    diverging=(
        *("#72C6FF", "#63A3D6", "#5481A5", "#446077", "#34414C", "#242424"),
        *("#4B3B34", "#745444", "#A16E54", "#CF8865", "#FFA475"),
    ),
    supported="#69BEFC",
    unsupported="#F08A4B",
)
THEMES = {"light": LIGHT, "dark": DARK}

# matplotlib's name of a perceptually uniform map that colour-blind readers see as others do.
SEQUENTIAL = "cividis"
# What lies over a picture: this colour, the more opaque the larger the value. The picture's own
# colours are muted beneath it.
OVERLAY = "#FF7A1A"
# One a run, together with its colour: circle, square, diamond, triangle, cross, plus.
MARKS = ("o", "s", "D", "^", "X", "P")


def theme(name: str) -> Theme:
    """Return a theme by its name.

    Raises:
        VlmHeadsError: another name than "light" or "dark".
    """
    if name not in THEMES:
        raise VlmHeadsError(f"theme {name!r}", " or ".join(THEMES))
    return THEMES[name]


def category(position: int, theme: Theme = LIGHT) -> str:
    """Return the colour of the run at a position; the baseline is at 0."""
    return theme.categories[position % len(theme.categories)]


def variables(theme: Theme) -> str:
    """Return the theme as CSS custom properties, such as `--figure-text:#1F2328;`."""
    pairs = {f"--figure-{name}": value for name, value in named(theme).items()}
    return "".join(f"{name}:{value};" for name, value in pairs.items())


def style_sheet() -> str:
    """Return CSS that gives a page the light theme, or the dark one where its reader asks for it.

    The attribute `data-theme` of the root element, "light" or "dark", overrides the reader's wish.
    """
    return (
        f':root,:root[data-theme="light"]{{color-scheme:light;{variables(LIGHT)}}}'
        f'@media(prefers-color-scheme:dark){{:root:not([data-theme="light"])'
        f"{{color-scheme:dark;{variables(DARK)}}}}}"
        f':root[data-theme="dark"]{{color-scheme:dark;{variables(DARK)}}}'
    )


def named(theme: Theme) -> dict[str, str]:
    """Return the colours of a theme by the names that style sheets use."""
    plain = ("background", "text", "muted", "grid", "supported", "unsupported")
    numbered = {f"category-{n}": colour for n, colour in enumerate(theme.categories)}
    return {name: getattr(theme, name) for name in plain} | numbered
