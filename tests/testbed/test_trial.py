import re

import pytest
from click.testing import CliRunner
from vlmheads_testbed import commands, trial
from vlmheads_testbed.trial import Said, page, totals


def said(text: str, *objects: str, there: str = "dog horse") -> Said:
    """A caption that names objects by their names."""
    places = tuple(
        (match.start(), match.end(), name) for name in objects for match in re.finditer(name, text)
    )
    return Said(text, tuple(sorted(places)), frozenset(there.split()))


PLAIN = said("A farm with a dog. There is a hot dog stand and a cow.", "cow", "dog stand")
BETTER = said("A farm with a dog and a horse.", "dog", "horse")


def test_a_caption_knows_what_it_invented_and_missed() -> None:
    assert PLAIN.invented == ["dog stand", "cow"]
    assert PLAIN.missed == ["dog", "horse"]
    assert (BETTER.invented, BETTER.missed) == ([], [])


def shown(colour: bool, plain: Said = PLAIN) -> str:
    return page(["test"], [plain], [BETTER], name="vcd", colour=colour)


def test_inventions_are_in_brackets_without_colour() -> None:
    text = shown(colour=False)
    assert "a hot [invented: dog stand] and a [invented: cow]." in " ".join(text.split())
    assert "(missed: dog, horse)" in text
    assert "\x1b" not in text


def test_inventions_are_red_and_struck_with_colour() -> None:
    text = shown(colour=True)
    assert "a hot \x1b[31;9mdog stand\x1b[0m and a \x1b[31;9mcow\x1b[0m." in " ".join(text.split())
    assert "invented:" not in text


@pytest.mark.parametrize("colour", [False, True])
def test_no_line_is_wider_than_eighty_columns(colour: bool) -> None:
    long = said("There is a cow. " * 20, "cow")
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown(colour, long)).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("There is a" in line for line in lines) > 3


def test_the_first_pictures_whose_captions_differ_are_shown_better_or_worse() -> None:
    plain, mitigated = [BETTER, PLAIN, BETTER, PLAIN], [BETTER, BETTER, PLAIN, BETTER]
    text = page(["test"] * 4, plain, mitigated, name="vcd", colour=False)
    assert "3 of 4 captions differ." in text
    assert text.count("In this usual picture:") == 2
    assert text.count("[invented: dog stand]") == 2  # of the second and of the third


def test_totals_count_mentions_and_what_is_found_with_paired_intervals() -> None:
    invented, found = totals([PLAIN, BETTER] * 6, [BETTER] * 12, "vcd")[1:]
    assert "12 -> 0, difference -12 (" in invented
    assert "50 % -> 100 %, difference +50 points (" in found
    low, high = map(int, re.findall(r"\(([-+]\d+) to ([-+]\d+)\)", found)[0])
    assert 10 < low < 50 < high < 90


def test_the_command_tells_of_all_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SCENES", 2)
    text = CliRunner().invoke(commands.testbed, ["try"], catch_exceptions=False).stdout
    assert "of 4 captions differ" in text
    assert "All 4 pictures" in text
    assert "vlmheads.attach(model" in text
