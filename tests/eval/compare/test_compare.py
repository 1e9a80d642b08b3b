import json
from dataclasses import replace

import pytest
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.chair import NOT_SHOWN, compare_chair, judge, notes, score_run
from vlmheads_eval.compare.pope import compare_pope
from vlmheads_eval.pope.questions import Question, QuestionFile
from vlmheads_eval.report.figures import far_off
from vlmheads_eval.report.page import write_report
from vlmheads_eval.statistics import BETTER, SAME, WORSE, Estimate

from vlmheads.errors import VlmHeadsError

PATTERN = get_variant("pattern")
IMAGES = 60
TRUTH = GroundTruth({str(n): frozenset({"dog", "car"}) for n in range(IMAGES)}, ())
# Three sentences: what is there, what is there, what is not.
FULL = "A dog runs. A car waits. A cat sleeps."


@pytest.fixture
def run(tmp_path):
    def scores(name, captions, truth=TRUTH):
        path = tmp_path / f"{name}.jsonl"
        lines = [{"image_id": n, "caption": caption} for n, caption in enumerate(captions)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return score_run(name, path, truth, PATTERN)

    return scores


def mixed(other, share=3):
    """Return captions of which every so many is the full one."""
    return [FULL if n % share == 0 else other for n in range(IMAGES)]


def verdict(result):
    return result["methods"][0]["verdict"]


def test_what_cutting_also_reaches_is_not_better(run):
    result = compare_chair(
        [run("a", [FULL] * IMAGES), run("b", mixed("A dog runs. A car waits. A tree."))],
        draws=500,
    )
    # Cutting after two sentences names as much and invents nothing.
    assert verdict(result) == NOT_SHOWN


def test_what_truncation_cannot_reach_is_better(run):
    early = "A dog and a cat. A car waits."
    result = compare_chair(
        [run("a", [early] * IMAGES), run("b", mixed("A dog. A car waits."))], draws=500
    )
    assert verdict(result) == BETTER


def test_plain_truncation_is_shorter_and_not_better(run):
    result = compare_chair(
        [run("a", [FULL] * IMAGES), run("b", ["A dog runs."] * IMAGES)], draws=500
    )
    assert verdict(result) == NOT_SHOWN


def test_more_inventions_are_worse(run):
    result = compare_chair([run("a", mixed("A dog.")), run("b", [FULL] * IMAGES)], draws=500)
    assert verdict(result) == WORSE


def test_the_same_captions_are_not_distinguishable(run):
    result = compare_chair([run("a", mixed("A dog.")), run("b", mixed("A dog."))], draws=500)
    assert verdict(result) == SAME
    assert result["methods"][0]["mcnemar"] == {"fixed": 0, "broken": 0, "p": 1.0}


def test_loops_are_said_beside_the_verdict(run):
    loop = "A dog runs on the grass. " * 9
    result = compare_chair([run("a", [FULL] * IMAGES), run("b", [loop] * IMAGES)], draws=500)
    assert "100.0% of its captions are repetitive" in result["methods"][0]["notes"]


def test_only_images_that_all_runs_have_are_compared(run):
    result = compare_chair([run("a", [FULL] * 5), run("b", [FULL] * 3)], draws=500)
    assert (result["images"], result["left_out"]) == (3, {"a": 2, "b": 0})


def test_runs_without_an_image_in_common_are_refused(run):
    first, second = run("a", [FULL]), run("b", [FULL])
    elsewhere = replace(second, counts={"77": second.counts["0"]})
    with pytest.raises(VlmHeadsError, match="in common"):
        compare_chair([first, elsewhere], draws=500)


def test_two_runs_of_one_name_are_refused(run):
    with pytest.raises(VlmHeadsError, match="two runs of one name"):
        compare_chair([run("a", [FULL]), run("a", [FULL])], draws=500)


@pytest.mark.parametrize("caption", [FULL, "", "A tree."])
def test_one_image_can_be_compared_and_reported(run, caption, tmp_path):
    scores = [run("a", [caption]), run("b", ["A tree."])]
    result = compare_chair(scores, draws=200)
    assert verdict(result) == SAME
    result["variant"] = "pattern"
    assert all(path.stat().st_size for path in write_report(tmp_path / "out", result, scores))


def test_images_without_any_object_divide_by_nothing(run):
    truth = GroundTruth({"0": frozenset()}, ())
    scores = [run("a", ["A dog."], truth), run("b", [""], truth)]
    assert compare_chair(scores, draws=200)["runs"][0]["overall"]["recall"] is None


def test_a_report_marks_invented_words_and_hides_no_markup(run, tmp_path):
    scores = [run("<a>", ["A dog & a cat <b>."] * 2), run("b", [FULL] * 2)]
    result = {**compare_chair(scores, draws=200), "variant": "pattern"}
    write_report(tmp_path, result, scores)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "A dog &amp; a <mark>cat</mark> &lt;b&gt;." in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_comparison_is_plain_json(run):
    result = compare_chair([run("a", [FULL] * 4), run("b", ["A dog."] * 4)], draws=200)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_one_seed_gives_one_comparison(run):
    scores = [run("a", [FULL] * 9), run("b", mixed("A dog.")[:9])]
    first, second = (compare_chair(scores, draws=300, seed=4) for _ in range(2))
    assert first == second


def questions(split, labels):
    asked = tuple(
        Question(n + 1, f"{n // 2}.jpg", "Is there a dog?", label) for n, label in enumerate(labels)
    )
    return QuestionFile(None, split, asked, "0" * 64)


def table(replies):
    return {(None, n + 1): [reply] for n, reply in enumerate(replies)}


def test_pope_runs_are_compared_by_image():
    labels = ["yes", "no"] * 40
    always_yes = ["Yes."] * 80
    right = ["Yes." if label == "yes" else "No." for label in labels]
    result = compare_pope(
        {"yes": table(always_yes), "right": table(right)},
        [questions("random", labels)],
        draws=500,
    )
    assert (result["images"], result["questions"]) == (40, 80)
    assert result["methods"][0]["difference"]["accuracy"]["value"] == 0.5
    assert verdict(result) == BETTER


def test_the_same_answers_are_not_distinguishable():
    answers = {name: table(["Yes.", "No."]) for name in ("a", "b")}
    result = compare_pope(answers, [questions("random", ["yes", "no"])], draws=200)
    assert verdict(result) == SAME


def test_a_run_far_off_is_named_beside_the_figures_instead_of_drawn(run, tmp_path):
    wrong = "A cat. A bus. A cup. A bed."
    names = ("a", "b", "c", "blind")
    scores = [run(name, [wrong if name == "blind" else FULL] * 4) for name in names]
    result = {**compare_chair(scores, draws=200), "variant": "pattern"}
    assert far_off(result) == ["blind"]
    write_report(tmp_path, result, scores)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Far outside the figures: blind (recall 0.0, CHAIR_S 100.0)." in page


def test_captions_at_the_token_limit_are_noted():
    figures = {"repetition": 0.0, "at_limit": 0.011, "empty": 0.0}
    found = notes({"recall": Estimate(None)}, figures)
    assert found == ["1.1% of its captions end at the token limit"]
    assert notes({"recall": Estimate(None)}, figures | {"at_limit": 0.01}) == []


@pytest.mark.parametrize(
    ("hallucinated", "expected"),
    [(-0.1, BETTER), (0.0, BETTER), (0.1, NOT_SHOWN)],
    ids=["below the frontier too", "on the frontier", "above the frontier"],
)
def test_better_needs_no_rate_above_the_frontier(hallucinated, expected):
    lower = {"CHAIRs": Estimate(-0.1), "CHAIRi": Estimate(0.0)}
    frontier = {"CHAIRs": Estimate(-0.1), "unique_hallucination": Estimate(hallucinated)}
    tests = ("CHAIRs", "CHAIRi", "frontier CHAIRs", "frontier unique_hallucination")
    assert judge(lower, frontier, dict.fromkeys(tests, 0.01)) == expected


def test_pope_is_not_better_where_accuracy_rises_and_f1_falls():
    labels = ["yes", "no", "no", "no", "no"] * 40
    seldom = ["Yes." if n % 100 == 0 else "No." for n in range(200)]
    result = compare_pope(
        {"always": table(["Yes."] * 200), "seldom": table(seldom)},
        [questions("random", labels)],
        draws=500,
    )
    difference = result["methods"][0]["difference"]
    assert difference["accuracy"]["value"] > 0 > difference["f1"]["value"]
    assert verdict(result) == SAME


def test_the_baseline_is_never_far_off():
    rates = {"plain": 0.9, "a": 0.1, "b": 0.1}
    runs = [{"name": name, "overall": {"unique_hallucination": r}} for name, r in rates.items()]
    assert far_off({"baseline": "plain", "runs": runs}) == []
    assert far_off({"baseline": "a", "runs": runs}) == ["plain"]
