"""What benchmarks/effect.py runs: every plugin at its default and at three strengths, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Plugin -> options of its settings, with a name where the options are no good one. The first is
# the plugin's default, or as near to it as a plugin comes that is refused without something
# learned. What stands in braces was learned from scenes that are not scored; see effect_needs.py.
SETTINGS: Mapping[str, tuple[str | tuple[str, str], ...]] = {
    "act": ("", "beta=0.2", "beta=0", "beta=0,alpha=2"),
    "adaiat": (
        ("", "tables={tables}"),
        ("alpha=3", "tables={tables},alpha=3"),
        ("form=release", "tables={tables},form=release"),
        ("form=release, clamp", "tables={tables},form=release,clamp=true"),
    ),
    "adhh": (
        ("3 heads", "heads={worst3}"),
        ("3 heads, threshold=0.2", "heads={worst3},threshold=0.2"),
        ("6 heads, threshold=0.2", "heads={worst6},threshold=0.2"),
        ("12 heads, threshold=0", "heads={worst12},threshold=0"),
    ),
    "air": ("", "share=0.05", "share=0.3", "share=0.6"),
    "allpath": (
        ("3 off, 3 up", "suppressed={worst3},boosted={best3}"),
        ("3 half, 3 up", "suppressed={worst3},boosted={best3},low=0.5,high=1.5"),
        ("6 off, 6 up", "suppressed={worst6},boosted={best6}"),
        ("12 half, 12 up", "suppressed={worst12},boosted={best12},low=0.5,high=1.5"),
    ),
    "attnreal": ("", "rho=0.75", "rho=0", "split=proportional"),
    "cfg": ("", "guidance=1.25", "guidance=1.5", "guidance=2"),
    "cicd": (
        ("", "pool={pool}"),
        ("tau=0", "pool={pool},tau=0"),
        ("alpha=0.5", "pool={pool},alpha=0.5"),
        ("alpha=2", "pool={pool},alpha=2"),
    ),
    "cmac": ("", "alpha=0.5", "alpha=1", "alpha=1,form=release"),
    "daid": ("", "alpha=0", "alpha=0.4", "beta=0.5"),
    "damro": ("", "alpha=0.25", "alpha=1", "alpha=2"),
    "deco": ("", "alpha=0.2", "alpha=0.4", "alpha=1"),
    "devils": ("", "alpha=1", "alpha=2", "alpha=4"),
    "dola": ("", "strength=0.25", "strength=0.5", "strength=2"),
    "eah": ("", "threshold=0.01", "layers=[1,2,3]", "form=release"),
    "flb": ("", "gamma=0", "gamma=0.15", "gamma=0.6"),
    "gains": (
        ("calibrated", "head_map={gains}"),
        ("calibrated, strength=0.5", "head_map={gains},strength=0.5"),
        ("calibrated, strength=1.5", "head_map={gains},strength=1.5"),
        ("calibrated, strength=2", "head_map={gains},strength=2"),
    ),
    "gift": ("", "alpha=1", "alpha=2.5", "alpha=7.5"),
    "havae": (
        ("", "ratios={ratios}"),
        ("alpha=0.3", "ratios={ratios},alpha=0.3"),
        ("alpha=0.6", "ratios={ratios},alpha=0.6"),
        ("alpha=1.2", "ratios={ratios},alpha=1.2"),
    ),
    "hulluedit": ("", "blend=0.4", "blend=1", "kappa=2"),
    "iat": ("", "alpha=0.4", "alpha=1.6", "alpha=3"),
    "icd": (
        ("", "prefix={prefix}"),
        ("alpha=0.25", "prefix={prefix},alpha=0.25"),
        ("alpha=0.5", "prefix={prefix},alpha=0.5"),
        ("alpha=2", "prefix={prefix},alpha=2"),
    ),
    "ilvad": ("", "alpha=1", "alpha=2.5", "base=1"),
    "kvsmooth": ("", "reference=0.3", "reference=0.6", "strength=0.5"),
    "locore": ("", "beta=0.4", "beta=0.4,window=64", "beta=1"),
    "m3id": ("", "decay=0.05", "decay=0.1", "decay=0.2"),
    "memvr": ("", "threshold=0.5", "threshold=0.25", "ratio=0.3,threshold=0.25"),
    "nullu": (
        ("", "basis={basis}"),
        ("rank=1", "basis={basis},rank=1"),
        ("rank=2", "basis={basis},rank=2"),
        ("rank=8", "basis={basis},rank=8"),
    ),
    "offsets": (
        ("iti", "learned={vectors}"),
        ("iti, quarter", "learned={vectors},strength=0.25"),
        ("iti, half", "learned={vectors},strength=0.5"),
        ("lofit", "learned={trained}"),
    ),
    "only": ("", "collaborate=1", "gamma=0", "gamma=0,contrast=0.5"),
    "pai": ("", "alpha=0.25", "alpha=1", "gamma=1.1"),
    "paint": ("", "alpha=0.3,beta=0.1", "alpha=0.5,beta=0.2", "alpha=1,beta=0.5"),
    "pti": (
        ("form=release", "directions={cached},form=release"),
        ("", "directions={cached}"),
        ("release, half", "directions={cached},form=release,key_strength=0.05,value_strength=0.3"),
        ("release, double", "directions={cached},form=release,key_strength=0.2,value_strength=1.2"),
    ),
    "resdec": ("", "alpha=0", "alpha=0.25", "window=32"),
    "revis": (
        ("", "learned={risk}"),
        ("alpha=0.5", "learned={risk},alpha=0.5"),
        ("alpha=1", "learned={risk},alpha=1"),
        ("form=release", "learned={risk},form=release"),
    ),
    "rudder": ("", "alpha=0.1", "alpha=1", "form=release"),
    "sid": ("", "alpha=0.25", "alpha=1", "alpha=2"),
    "spin": ("", "factor=0.5", "keep=0.75", "keep=0.5"),
    "vaf": (
        "",
        "enhance=1.3,suppress=0.9",
        "enhance=1.6,suppress=0.8",
        "enhance=2.5,suppress=0.5",
    ),
    "var": ("", "tau=3", "tau=2.5", "tau=2"),
    "vcd": ("", "alpha=0.25", "alpha=0.5", "alpha=2"),
    "vga": ("", "map=certainty", "beta=0.5", "beta=1"),
    "vhr": ("", "alpha=1.25", "alpha=1.5", "alpha=3"),
    "vista": ("", "strength=0.05", "strength=0.1", "strength=0.3"),
    "vti": (
        ("", "directions={directions}"),
        ("strength=0.45", "directions={directions},strength=0.45"),
        ("strength=1.8", "directions={directions},strength=1.8"),
        ("strength=3.6", "directions={directions},strength=3.6"),
    ),
    "vti-visual": (
        ("", "directions={visual}"),
        ("strength=0.4", "directions={visual},strength=0.4"),
        ("strength=1.8", "directions={visual},strength=1.8"),
        ("strength=3.6", "directions={visual},strength=3.6"),
    ),
    "zerotuning": ("", "gamma=0.3", "gamma=0.1", "gamma=3"),
}

# Plugin -> label of the setting -> its options with heads drawn at random: as many, the same gain.
RANDOM: Mapping[str, Mapping[str, str]] = {
    "adhh": {"3 heads": "heads={any3}"},
    "allpath": {"3 off, 3 up": "suppressed={any3},boosted={other3}"},
    "gains": {"calibrated": "head_map={shuffled}"},
    "offsets": {"iti, quarter": "learned={scattered},strength=0.25"},
    "vhr": {"": "head_map={map}", "alpha=3": "alpha=3,head_map={map}"},
}
DRAWS = 5

# The grid of VHR: factors on three choices of layers, the plugin's own (the second and the last
# 14 of 32) and two that `effect_needs.layer_choices` writes for the model at hand.
GRID_ALPHAS = (1.05, 1.25, 1.5, 2)
GRID_LAYERS = ("first half", "all")
# Of the grid, what is held against random heads, each draw in the plugin's own layers.
GRID_RANDOM = (1.25,)
PLAIN, TEXT_ONLY = "plain", "no image"


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Args:
        name: of the run, such as "vhr alpha=3".
        kind: "plain", "method", "random heads" or "no image".
        plugin: its name; none for plain and no image.
        text: what `vlmheads.attach` takes; None where what it needs was not learned.
        controls: for random heads the run that they are a control of.
    """

    name: str
    kind: str
    plugin: str = ""
    text: str | None = ""
    controls: str = ""


@dataclass(frozen=True)
class Scope:
    """How much of all this is run.

    Args:
        plugins: just these; none for all.
        strengths: of each plugin, its default being the first.
        draws: of random heads, for what is left of the settings that have such a control.
        grid: whether VHR is run on the grid of factors and layers, too.
        also: further settings, as in "var:tau=15".
    """

    plugins: tuple[str, ...] = ()
    strengths: int = 4
    draws: int = DRAWS
    grid: bool = False
    also: tuple[str, ...] = ()


EVERYTHING = Scope()


def settings(needs: Mapping[str, str], scope: Scope = EVERYTHING) -> Iterator[Setting]:
    """Yield what to run: the plain model, methods, random heads and no image.

    Args:
        needs: what options refer to in braces; those of a draw end in its number, as in "map-0".
        scope: how much of it.
    """
    yield Setting(PLAIN, "plain")
    chosen = [name for name in SETTINGS if not scope.plugins or name in scope.plugins]
    names = set()
    for plugin in chosen:
        entries = list(SETTINGS[plugin][: scope.strengths])
        if plugin == "vhr" and scope.grid:
            entries += [one for one in _grid() if one not in entries]
        for entry in entries:
            label, options = (entry, entry) if isinstance(entry, str) else entry
            name = f"{plugin} {label}".strip()
            names.add(name)
            yield Setting(name, "method", plugin, _filled(plugin, options, needs))
    for also in scope.also:
        plugin, _, options = also.partition(":")
        yield Setting(f"{plugin} {options}", "method", plugin, also)
    for plugin in chosen:
        for label, options in _controls(plugin, scope):
            controlled = f"{plugin} {label}".strip()
            for draw in range(scope.draws if controlled in names else 0):
                drawn = options.replace("}", f"-{draw}}}")
                text = _filled(plugin, drawn, needs)
                name = f"{controlled}, random heads {draw}"
                yield Setting(name, "random heads", plugin, text, controlled)
    yield Setting(TEXT_ONLY, "no image")


def _grid() -> Iterator[str | tuple[str, str]]:
    """Settings of VHR: each factor in the plugin's own layers, then in the others."""
    yield from (f"alpha={alpha:g}" for alpha in GRID_ALPHAS if alpha != 2)  # 2 is the default.
    for layers in GRID_LAYERS:
        for alpha in GRID_ALPHAS:
            yield f"alpha={alpha:g}, {layers}", f"alpha={alpha:g},layers={{{layers}}}"


def _controls(plugin: str, scope: Scope) -> list[tuple[str, str]]:
    """Labels of settings with random heads in the place of theirs, and those options."""
    found = list(RANDOM.get(plugin, {}).items())
    if plugin == "vhr" and scope.grid:
        found += [(f"alpha={a:g}", f"alpha={a:g},head_map={{map}}") for a in GRID_RANDOM]
    return found


def _filled(plugin: str, options: str, needs: Mapping[str, str]) -> str | None:
    """Write what was learned into the options; None where it is not there."""
    for key, value in needs.items():
        options = options.replace(f"{{{key}}}", value)
    return None if "{" in options else f"{plugin}:{options}" if options else plugin
