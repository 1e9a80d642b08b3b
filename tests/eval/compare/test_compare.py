import json
from dataclasses import replace

import pytest
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.chair import compare_chair
from vlmheads_eval.compare.pope import compare_pope
from vlmheads_eval.compare.runs import score_run
from vlmheads_eval.compare.verdict import SAYS_LESS, SAYS_MORE, labelled
from vlmheads_eval.pope.questions import Question, QuestionFile
from vlmheads_eval.report.figures import far_off
from vlmheads_eval.report.page import write_report
from vlmheads_eval.report.tables import table, verdicts
from vlmheads_eval.statistics import BETTER, SAME, WORSE

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


def test_cutting_is_on_the_frontier_and_says_less(run):
    result = compare_chair(
        [run("a", [FULL] * IMAGES), run("b", ["A dog runs."] * IMAGES)], draws=500
    )
    assert verdict(result) == SAYS_LESS


def test_what_cutting_cannot_reach_is_better(run):
    early = "A dog and a cat. A car waits."
    result = compare_chair(
        [run("a", [early] * IMAGES), run("b", mixed("A dog. A car waits."))], draws=500
    )
    assert verdict(result) == BETTER


def test_more_recall_on_the_same_line_says_more(run):
    result = compare_chair(
        [run("a", ["A dog runs."] * IMAGES), run("b", [FULL] * IMAGES)], draws=500
    )
    assert verdict(result) == SAYS_MORE


@pytest.mark.parametrize(("images", "expected"), [(5, SAME), (6, SAYS_LESS)])
def test_a_handful_of_images_shows_nothing(run, images, expected):
    scores = [run("a", [FULL] * images), run("b", ["A dog runs."] * images)]
    assert verdict(compare_chair(scores, draws=200)) == expected


def test_hallucinating_more_at_equal_recall_is_worse(run):
    clean, early = "A dog. A car waits.", "A dog and a cat. A car waits."
    result = compare_chair([run("a", [clean] * IMAGES), run("b", mixed(early))], draws=500)
    assert verdict(result) == WORSE


def test_the_same_captions_are_not_distinguishable(run):
    result = compare_chair([run("a", mixed("A dog.")), run("b", mixed("A dog."))], draws=500)
    assert verdict(result) == SAME
    assert result["methods"][0]["mcnemar"] == {"fixed": 0, "broken": 0, "p": 1.0}


def test_a_flagged_run_is_not_called_better_without_its_flag_in_the_same_line(run):
    early = "A dog and a cat. A car waits."
    loop = "A dog runs on the grass. A car waits. " * 9
    result = compare_chair([run("a", [early] * IMAGES), run("b", mixed(loop, share=9))], draws=500)
    result["variant"] = "pattern"
    assert verdict(result) == BETTER
    assert labelled(result["methods"][0]) == "better; repeats, much longer"
    assert "better; repeats, much longer" in table(result)[2]
    assert "flagged: repeats (88.3% against 0.0%" in verdicts(result)[0]


def test_repetition_is_noted_against_the_baseline(run):
    loop = "A dog runs on the grass. A car waits. " * 9
    looping, clean = run("a", [loop] * IMAGES), run("b", mixed("A dog. A car waits."))
    method = compare_chair([looping, clean], draws=500)["methods"][0]
    assert method["flags"] == []
    assert "less repetitive than its baseline (0.0% against 100.0%)" in method["notes"]


def test_the_kind_of_the_baseline_stands_in_the_line(tmp_path):
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / f"{name}.jsonl")
        lines = [json.dumps({"image_id": n, "caption": FULL}) for n in range(9)]
        files[-1].write_text("\n".join(lines))
    result = compare_chair(
        [
            score_run(file.stem, file, TRUTH, PATTERN, decoding)
            for file, decoding in zip(files, ("sampled", "greedy"), strict=True)
        ],
        draws=200,
    )
    (line,) = verdicts(result)
    assert line.startswith("b (greedy): not distinguishable from a (sampled); ")
    assert "greedy captions against sampled ones" in line


def test_only_images_that_all_runs_have_are_compared(run):
    result = compare_chair([run("a", [FULL] * 5), run("b", [FULL] * 3)], draws=500)
    assert (result["images"], result["left_out"]) == (3, {"a": 2, "b": 0})


def test_runs_without_an_image_in_common_are_refused(run):
    first, second = run("a", [FULL]), run("b", [FULL])
    elsewhere = replace(second, images=("77",))
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


def replied(replies):
    return {(None, n + 1): [reply] for n, reply in enumerate(replies)}


def test_pope_runs_are_compared_by_image():
    labels = ["yes", "no"] * 40
    always_yes = ["Yes."] * 80
    right = ["Yes." if label == "yes" else "No." for label in labels]
    result = compare_pope(
        {"yes": replied(always_yes), "right": replied(right)},
        [questions("random", labels)],
        draws=500,
    )
    assert (result["images"], result["questions"]) == (40, 80)
    assert result["methods"][0]["difference"]["accuracy"]["value"] == 0.5
    assert verdict(result) == BETTER


def test_the_same_answers_are_not_distinguishable():
    answers = {name: replied(["Yes.", "No."]) for name in ("a", "b")}
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


def test_pope_is_not_better_where_accuracy_rises_and_f1_falls():
    labels = ["yes", "no", "no", "no", "no"] * 40
    seldom = ["Yes." if n % 100 == 0 else "No." for n in range(200)]
    result = compare_pope(
        {"always": replied(["Yes."] * 200), "seldom": replied(seldom)},
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
