"""What is recommended, of captions that are made up."""

from collections.abc import Mapping

import pytest
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.runs import RunScores, score_texts
from vlmheads_eval.records import Caption
from vlmheads_eval.tune.confirm import Confirmation, confirm
from vlmheads_eval.tune.settings import OBJECTIVES
from vlmheads_eval.tune.standings import standing
from vlmheads_eval.tune.verdict import best, strongest

from vlmheads.plugin import Plugin
from vlmheads.registry import resolve

PATTERN = get_variant("pattern")
IMAGES = 40
TRUTH = GroundTruth({str(at): frozenset({"dog", "cat"}) for at in range(IMAGES)}, ())
F1 = OBJECTIVES["f1"]
TRUE = "There is a dog and a cat."


def scores(name: str, wrong: int, text: str = TRUE) -> RunScores:
    """Captions that all name what is there, of which some name a third object."""
    captions = [
        Caption(at, f"{text} There is a pizza." if at < wrong else text, at_limit=False)
        for at in range(IMAGES)
    ]
    return score_texts(name, captions, TRUTH, PATTERN, "greedy")


def confirmed(
    wrong: Mapping[str, int], *, controlled: bool = True, loops: bool = False
) -> Confirmation:
    made = {name: resolve("vhr") for name in wrong if name != "plain" and "control" not in name}

    def score(name: str, plugins: tuple[Plugin, ...]) -> RunScores:
        known = "control" if "control" in name else name
        looping = loops and known not in ("plain", "control")
        return scores(name, wrong[known], " ".join([TRUE] * 9) if looping else TRUE)

    return confirm(
        made,
        score,
        lambda name, draw: resolve("vhr") if controlled else None,
        F1,
        variant="pattern",
        controls=2,
        seed=0,
        draws=500,
    )


def test_what_beats_the_plain_model_and_its_control_is_recommended() -> None:
    found = confirmed({"plain": 30, "good": 3, "same": 30, "worse": 38, "control": 30})
    judged = found.judgements
    assert best(judged, F1) == "good"
    assert [name for name, one in judged.items() if one.recommended] == ["good"]
    assert set(found.controls) == {"good"}, "a control is run where something helps"


def test_what_does_not_beat_its_control_is_not_recommended() -> None:
    found = confirmed({"plain": 30, "good": 3, "control": 3})
    assert found.judgements["good"].helps
    assert best(found.judgements, F1) is None
    assert strongest(found.judgements, F1) == "good"


def test_a_method_that_selects_nothing_needs_no_control() -> None:
    found = confirmed({"plain": 30, "good": 3}, controlled=False)
    assert best(found.judgements, F1) == "good"
    assert found.controls == {}


def test_captions_that_repeat_themselves_are_not_recommended() -> None:
    found = confirmed({"plain": 30, "good": 3, "control": 30}, loops=True)
    assert best(found.judgements, F1) is None
    assert "repeats" in found.judgements["good"].reason


def test_the_best_of_several_is_taken() -> None:
    wrong = {"plain": 38, "good": 12, "better": 3}
    assert best(confirmed(wrong, controlled=False).judgements, F1) == "better"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" ".join([TRUE] * 9), "repeats itself"),
        ("", "says nothing"),
        ("There is nothing.", "recall collapses"),
        (TRUE, ""),
    ],
)
def test_degenerate_captions_are_known_by_their_fault(text: str, reason: str) -> None:
    found = standing(scores("plain", 10), scores("method", 0, text), F1)
    assert found.out.startswith(reason)
    assert bool(found.out) == bool(reason)


def test_a_standing_is_a_gain_at_equal_recall_under_either_objective() -> None:
    plain, good = scores("plain", 30), scores("good", 3)
    for aim in OBJECTIVES.values():
        assert (standing(plain, good, aim).value or 0) > 0
        assert (standing(good, plain, aim).value or 0) < 0
