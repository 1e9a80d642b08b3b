"""The page of every method: its parts, their data, its drawing, and where its links lead."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import block
import code_pages
import linking
import method_facts
import method_pages
import pytest

import vlmheads
from vlmheads.plugin import Plugin

# One process makes the pages.
pytestmark = pytest.mark.xdist_group("pages")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SECTIONS = ("Formula", "Use", "Evidence", "Cost", "Pitfalls")
NAMES = vlmheads.list_plugins()
# What hooks return says whether they edit; these were read by a person.
READ_ONLY = {
    "kvsmooth": {"attention"},
    "spin": {"attention", "prompt"},
    "var": {"hidden", "prompt"},
    "vga": {"hidden"},
    "vista": {"prompt"},
    "hulluedit": {"attention", "hidden", "prompt"},
    "devils": set(),
}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    make = method_pages.method_page
    return {name: make(name) for name in NAMES}


@pytest.fixture(scope="module")
def made() -> set[str]:
    """Every page that the site has, as seen from docs/."""
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    reference = {path for path, _ in code_pages.pages()}
    return written | reference | {f"methods/{name}.md" for name in NAMES}


def section(page: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S)
    assert found is not None, title
    return found[1].strip()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_where_how_and_how_well_in_this_order(
    pages: dict[str, str], name: str
) -> None:
    page = pages[name]
    places = [page.index("<svg"), *(page.index(f"\n## {title}\n") for title in SECTIONS)]
    assert places == sorted(places)
    summary = page.splitlines()[2]
    assert re.fullmatch(r"\*\*[A-Z].*\.\*\*", summary)
    assert all(section(page, title) for title in SECTIONS)
    assert len(section(page, "Evidence")) > len("**Reported:** ")


@pytest.mark.parametrize("name", NAMES)
def test_the_lit_sites_are_those_that_the_plugin_declares(pages: dict[str, str], name: str) -> None:
    plugin = vlmheads.get_plugin(name)
    declared = {hook.removeprefix("on_") for hook in plugin.hooks()}
    declared |= {"stream"} if plugin.streams is not Plugin.streams else set()
    label = r'<text class="label(?: middle)? (?:edited|read)"[^>]*>([^<]*)</text>'
    lit = set(re.findall(label, pages[name]))
    assert lit == {block.SITES[site][0] for site in declared}


def test_a_site_that_a_hook_hands_on_as_it_was_is_only_read() -> None:
    for name, read in READ_ONLY.items():
        sites = method_facts.sites(vlmheads.get_plugin(name))
        assert {site for site, how in sites.items() if how == "read"} == read, name


def test_every_method_edits_something() -> None:
    for name in NAMES:
        assert "edited" in method_facts.sites(vlmheads.get_plugin(name)).values(), name


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_pages_and_headings_that_are_there(
    pages: dict[str, str], made: set[str], name: str
) -> None:
    slug = linking.slug
    links = re.findall(r"\]\(([^)\s]+)\)", pages[name])
    assert links
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        page = path.removeprefix("../") if path.startswith("../") else f"methods/{path}"
        assert page in made, link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text("utf-8"), flags=re.M)
            assert anchor in [slug(heading) for heading in headings], link


@pytest.mark.parametrize("name", NAMES)
def test_no_document_is_named_without_a_link(pages: dict[str, str], name: str) -> None:
    words = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", pages[name], flags=re.S)
    assert not re.findall(r"\b(?:docs|plugins|benchmarks)/[\w.-]+", words)


@pytest.mark.parametrize("name", [name for name in NAMES if [*method_facts.published(name)]])
def test_text_and_presets_point_to_published_captions(name: str) -> None:
    where = "docs/evidence.md"
    said = method_facts.parts(vlmheads.get_plugin(name))
    assert where in " ".join(said["Evidence"])
    for preset, found in method_facts.presets().items():
        if [one.name for one in found.plugins] == [name] and not found.weights:
            assert where in f"{found.note} {found.evidence}", preset


def test_a_method_without_evidence_says_so(
    pages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "**No evidence of its own:**"
    for name in NAMES:
        known = [*method_facts.published(name), *method_facts.measured(name)]
        assert (told in pages[name]) == (not known), name
    monkeypatch.setattr(method_pages, "measured", lambda name: iter(()))
    assert told in method_pages.method_page("rudder")
    assert told not in method_pages.method_page("vcd")  # Its captions were published.


def test_evidence_and_cost_are_the_rows_of_their_tables(pages: dict[str, str]) -> None:
    def cells(document: str, start: str) -> list[str]:
        (row,) = [
            line
            for line in (DOCS / document).read_text("utf-8").splitlines()
            if line.startswith(start)
        ]
        return [part.strip(" *") for part in row.strip("|").split("|")]

    theirs = cells("evidence.md", "| AdaIAT (a 6, b 0.5)")
    evidence = section(pages["adaiat"], "Evidence").replace("\N{NO-BREAK SPACE}", " ")
    assert f"| {theirs[0]} | {theirs[1]} | {theirs[2]} | {theirs[3]} | {theirs[5]} |" in evidence
    assert f"| {theirs[-2]} | {theirs[-1]} |" in evidence
    ours = cells("methods.md", "| `daid` | test |")
    assert f"| {ours[-2]} | {ours[-1]} |" in section(pages["daid"], "Evidence")
    timed = cells("performance.md", "| `vcd` | 1.70 |")
    for model, ratios in (("embedded", timed[2:6]), ("8 x 512", timed[6:])):
        assert f"| `vcd` | {model} | {' | '.join(ratios)} |" in section(pages["vcd"], "Cost")


def test_another_setting_that_was_timed_stands_beside_the_default(pages: dict[str, str]) -> None:
    assert "| `pai:gamma=1.1` |" in section(pages["pai"], "Cost")
    assert "| `vista:prompt=false` |" in section(pages["vista"], "Cost")


def test_what_has_to_be_learned_is_learned_first(pages: dict[str, str]) -> None:
    use = section(pages["vti"], "Use")
    assert use.index("vlmheads learn vti ") < use.index("--plugin vti:directions=FILE,strength=0.9")
    assert "vlmheads learn vti" in section(pages["vti"], "Pitfalls")


@pytest.mark.parametrize("name", NAMES)
def test_the_line_that_attaches_names_options_that_the_plugin_has(
    pages: dict[str, str], name: str
) -> None:
    found = re.search(r'vlmheads\.attach\(model, "([^"]+)"\)', section(pages[name], "Use"))
    assert found is not None
    plugin, _, settings = found[1].partition(":")
    assert plugin == name
    for option in re.findall(r"(\w+)=", settings):
        assert f"\n| `{option}` |" in pages[name]


def test_methods_that_contrast_two_streams_are_not_joined(pages: dict[str, str]) -> None:
    assert "[`m3id`](m3id.md)" in section(pages["vcd"], "Pitfalls")
    assert "Cannot be attached beside" not in pages["vhr"]


def test_a_drawing_is_an_image_with_a_name_and_a_description() -> None:
    drawn = block.drawing({"heads": "edited", "attention": "read"}, "Where spin acts")
    tree = ElementTree.fromstring(drawn)
    assert tree.get("role") == "img"
    names = (tree.get("aria-labelledby") or "").split()
    assert [part.get("id") for part in tree if part.tag in ("title", "desc")] == names
    assert "Head outputs edited; attention row read." in drawn


def test_a_drawing_takes_all_colours_from_the_style_sheet() -> None:
    drawn = block.drawing({"stream": "edited", "logits": "edited"}, "t")
    assert not re.search(r'(fill|stroke)="|#[0-9a-fA-F]{3}', drawn)
    style = (DOCS / "style.css").read_text("utf-8")
    for name in set(re.findall(r'class="([\w ]+)"', drawn)):
        assert any(f".{part}" in style for part in name.split()), name


def test_the_overview_shows_every_site_once_with_who_edits_there() -> None:
    shown = method_pages.gallery()
    assert shown.count("<svg") == len(block.SITES) - 1
    assert "[`kvsmooth`](methods/kvsmooth.md)" in shown
    assert "<!-- sites -->" in (DOCS / "methods.md").read_text("utf-8")


def test_indices_and_powers_of_a_formula_are_set_as_such() -> None:
    set_as = method_pages.formula
    assert set_as("s_hj ← e^{λ t} < CHAIR_S") == (
        "<i>s</i><sub>hj</sub> ← <i>e</i><sup><i>λ</i> <i>t</i></sup> &lt; CHAIR_S"
    )


def test_words_of_a_docstring_do_not_become_markup() -> None:
    assert linking.plain("a*b <i> |x[d]| `a*b`") == r"a\*b \<i> \|x\[d\]\| `a*b`"
    assert linking.prose("a*b <i> |x_d| CHAIR_S") == r"a\*b \<i> \|x<sub>d</sub>\| CHAIR_S"


def test_plain_paths_in_words_become_links_and_code_stays() -> None:
    linked = linking.outside_links
    assert linked("see docs/effect.md and `docs/effect.md`", "../") == (
        "see [What each method does to the test benches](../effect.md) and `docs/effect.md`"
    )
    assert linked("[there](docs/effect.md)") == "[there](docs/effect.md)"
