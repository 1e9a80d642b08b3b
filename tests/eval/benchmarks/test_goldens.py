"""What the official codes, lmms-eval and VLMEvalKit gave on the same invented answers."""

import json
import os
from pathlib import Path

import pytest
from vlmheads_eval.benchmarks import dash_b, hallusionbench, humblebench, mme, popev2
from vlmheads_eval.benchmarks.amber import AmberTruth
from vlmheads_eval.benchmarks.amber_score import score_amber
from vlmheads_eval.benchmarks.capture import compare_graphs, read_graph
from vlmheads_eval.benchmarks.distinct import distinct, score_distinct, tokens
from vlmheads_eval.benchmarks.judged import Ratings
from vlmheads_eval.benchmarks.mmhal import TYPES, rating, score_ratings
from vlmheads_eval.benchmarks.readings import READINGS
from vlmheads_eval.benchmarks.record import Answer, Source
from vlmheads_eval.benchmarks.score import floor_figures, values

MME_CODES = {"official": "official", "lmms_eval": "lmms-eval", "vlmevalkit": "vlmevalkit"}


def test_mme_gives_the_scores_of_three_codes(golden):
    tasks = golden("mme")["tasks"]
    items, answers = mme_items(tasks)
    expected = golden("mme")["expected"]
    for code, reading in MME_CODES.items():
        found = values(mme.tally(items, answers, reading), mme.figures(items, reading))
        for task in mme.TASKS:
            score = expected[task][code]
            assert found[task] == (score["score"] if code == "official" else score)
    found = values(mme.tally(items, answers, "official"), mme.figures(items, "official"))
    assert found["total"] == golden("mme")["hallucination_total_official"]
    for task in mme.TASKS:
        about = expected[task]["official"]
        names = {"acc": "acc", "acc_plus": "acc+", "precision": "precision", "recall": "recall"}
        assert {name: found[f"{task} {ours}"] for name, ours in names.items()} == {
            name: about[name] for name in names
        }


def mme_items(tasks):
    items, answers = [], {}
    for task, images in tasks.items():
        for image in images:
            for number, asked in enumerate(image["questions"], 1):
                question, answer = asked["question"], asked["answer"]
                item = mme._item(task, image["image"], number, question, answer, None, "")
                items.append(item)
                answers[item.key] = Answer(asked["response"])
    return items, answers


@pytest.mark.parametrize(
    ("code", "reading"),
    [("official", "mme"), ("lmms_eval", "mme-lmms"), ("vlmevalkit", "words")],
)
def test_every_answer_is_read_as_each_code_reads_it(golden, code, reading):
    for row in golden("mme")["parsers"]:
        expected = row[code].lower()
        if expected.startswith("valueerror"):
            assert "\t" in row["answer"]  # The official file cannot hold it; the text itself can.
            expected = "yes"
        expected = None if expected in ("other", "unknown") else expected
        assert READINGS[reading](row["answer"]) == expected, row["answer"]


WAYS = {
    "official_with_judgements": "judged",
    "official_functions_strict_parser": "strict",
    "official_functions_word_parser": "words",
    "substring_yes_all_items (lmms-eval *_intern, InternVL)": "internvl",
    "substring_yes_image_items": "internvl-images",
    "vlmevalkit_image_items": "vlmevalkit",
}


@pytest.mark.parametrize(("name", "reading"), WAYS.items())
def test_hallusionbench_gives_what_each_way_of_scoring_gives(golden, tmp_path, name, reading):
    content = golden("hallusionbench")
    (tmp_path / "HallusionBench.json").write_text(json.dumps(content["items"]))
    questions = hallusionbench.load(Source(tmp_path))
    answers = {
        hallusionbench.key_of(record): Answer(record["model_prediction"], record)
        for record in content["items"]
    }
    items = [item for item in questions.items if hallusionbench.asked(item, reading)]
    tally = hallusionbench.tally(items, answers, reading)
    found = values(tally, hallusionbench.figures(items, reading))
    sums = {key: float(value) for key, value in tally.sums().items()}
    expected = content["expected"][name]
    shares = {key: found[key] * 100 for key in ("aAcc", "fAcc", "qAcc")}
    assert shares == pytest.approx({key: expected[key] for key in shares}, abs=5e-5)
    if "questions" not in expected:
        return
    more = {
        "questions": sums["asked"],
        "figures": sums["figures"],
        "pairs": sums["pairs"],
        "correct": sums["right"],
        "consistent_right": sums["figures right"],
        "consistent_wrong": sums["figures wrong"],
        "inconsistent": sums["figures mixed"],
        "figure_score": found["right per figure"],
        "easy_per_pair": found["easy pairs"] * 100,
        "hard_per_pair": found["hard pairs"] * 100,
        "LH_cg": sums["cause language"],
        "VI_cg": sums["cause vision"],
        "Mix_cg": sums["cause mixed"],
        "LH": sums["pair cause language"],
        "VI": sums["pair cause vision"],
        "Mix": sums["pair cause mixed"],
    }
    assert more == pytest.approx({key: expected[key] for key in more}, abs=5e-5)
    ratios = {"diff": found["yes minus truth"], "fp": found["wrong: truth is no"]}
    assert ratios == pytest.approx(expected["yes_ratio"])


def test_image_questions_alone_have_no_causes_instead_of_a_key_error(golden, tmp_path):
    content = golden("hallusionbench")
    records = [record for record in content["items"] if record["visual_input"] != "0"]
    (tmp_path / "HallusionBench.json").write_text(json.dumps(records))
    items = hallusionbench.load(Source(tmp_path)).items
    answers = {
        hallusionbench.key_of(record): Answer(record["model_prediction"], record)
        for record in records
    }
    found = values(
        hallusionbench.tally(items, answers, "judged"), hallusionbench.figures(items, "judged")
    )
    assert found["blame language"] is None
    assert found["aAcc"] is not None


def test_dash_b_gives_the_official_figures(golden, tmp_path):
    content = golden("dash_b")
    path = tmp_path / "dash.json"
    path.write_text(json.dumps(content["items"]))
    items = dash_b.load(Source(path)).items
    assert items[0].question == content["prompt"].format(object="tuk-tuk")
    answers = {record["img_id"]: Answer(record["response"]) for record in content["items"]}
    for record in content["items"]:
        assert READINGS["letters"](record["response"]) == record["answer"]
    found = values(dash_b.tally(items, answers, "official"), dash_b.figures(items, "official"))
    expected = content["expected"]
    assert found == pytest.approx(
        {name: expected[name] for name in ("ACC", "TNR", "TPR")}
        | {"harmonic mean": expected["Harmonic Mean"]}
    )
    negative = [item for item in items if item.label == "no"]
    found = values(
        dash_b.tally(negative, answers, "official"), dash_b.figures(negative, "official")
    )
    assert (found["TPR"], found["harmonic mean"]) == (None, None)  # There, a ZeroDivisionError.
    wrong = {item.key: Answer("no" if item.label == "yes" else "yes") for item in items}
    found = values(dash_b.tally(items, wrong, "official"), dash_b.figures(items, "official"))
    assert found["harmonic mean"] == 0.0  # There, again.


def test_popev2_gives_the_paired_figures(golden, tmp_path):
    content = golden("popev2")
    path = tmp_path / "test.json"
    path.write_text(json.dumps(content["items"]))
    items = popev2.load(Source(path)).items
    answers = {
        f"{record['example_id']}/{side}": Answer(record[f"answer_{side}"])
        for record in content["items"]
        for side in popev2.SIDES
    }
    tally = popev2.tally(items, answers, "strict")
    found = values(tally, popev2.figures(items, "strict"))
    found["unparsed"] = float(tally.sums()["unparsed"] / tally.sums()["asked"])
    names = {
        name.replace("_", " ").replace("f1", "F1"): v for name, v in content["expected"].items()
    }
    assert found == pytest.approx(names)


def test_humblebench_gives_the_official_figures(golden, tmp_path):
    content = golden("humblebench")
    assert content["suffix"] == humblebench.SUFFIX
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content["items"]))
    items = humblebench.load(Source(path)).items
    answers = {str(one["question_id"]): Answer(one["prediction"]) for one in content["items"]}
    tally = humblebench.tally(items, answers, "official")
    for one in content["per_item"]:
        assert tally.correct[str(one["question_id"])] == one["correct"]
        assert (humblebench.chosen(one["prediction"]) or "NA") == one["extracted"]
    found = values(tally, humblebench.figures(items, "official"))
    accuracy, shares = content["expected"]["Accuracy"], content["expected"]["Proportions"]
    expected = {f"{kind} accuracy": accuracy[f"{kind}_accuracy"] for kind in humblebench.TYPES}
    expected |= {f"chose {letter}": shares[f"{letter}_proportion"] for letter in "ABCDE"}
    expected["accuracy"] = accuracy["Overall_accuracy"]
    expected["E accuracy, official"] = accuracy["E_accuracy"]
    for name, value in expected.items():
        assert found[name] * 100 == pytest.approx(value)
    assert found["E accuracy"] == 0.8
    sums = tally.sums()
    assert sums["unparsed"] / sums["asked"] * 100 == pytest.approx(shares["NA_proportion"])


def test_right_options_are_taken_out_as_in_the_official_code(golden, tmp_path):
    content = golden("humblebench")
    path = tmp_path / "train.json"
    odd = {
        "question_id": 99,
        "label": "A",
        "type": "Object",
        "question": "First line.\nSecond line of the stem.\nA. one\nB. two\nE. None of the above",
    }
    path.write_text(json.dumps([*content["items"], odd]))
    found = {item.key: item for item in humblebench.load_none_only(Source(path)).items}
    for rewrite in content["nota_only_rewrites"]:
        item = found[str(rewrite["question_id"])]
        assert (item.question, item.label) == (rewrite["question"] + humblebench.SUFFIX, "E")


AMBER_NAMES = {
    "all": "Descriminative Task",
    "existence": "Exsitence",
    "attribute": "Attribute",
    "state": "State",
    "number": "Number",
    "action": "Action",
    "relation": "Relation",
}


def test_amber_gives_the_official_figures_of_every_task_and_floor(golden):
    content = golden("amber_discriminative")
    truth = AmberTruth({item["id"]: item for item in content["annotations"]}, {}, frozenset())
    responses = {one["id"]: one["response"] for one in content["responses"]}
    result = score_amber(responses, truth)

    def printed(figures, expected):
        for name, heading in AMBER_NAMES.items():
            if heading in expected:
                row = [figures[name][key] for key in ("accuracy", "precision", "recall", "f1")]
                assert row == list(expected[heading].values()), (name, row)

    for expected in content["expected"].values():
        printed(result["discriminative"], expected)
    printed(result["floors"]["always yes"], content["all_yes"])
    all_yes = score_amber(dict.fromkeys(responses, "Yes"), truth)
    printed(all_yes["discriminative"], content["all_yes"])
    assert result["discriminative"]["all"]["unparsed"] == 5 / 18  # no, No., "", yes, Unknown
    assert result["sentences"]["all"]["unparsed"] == 2 / 18  # "", Unknown


def test_distinct_gives_the_matched_table(golden):
    content = golden("distinct")
    result = score_distinct(content["captions"])["figures"]
    for size in (1, 2):
        expected = content[f"distinct_{size}"]
        each = [distinct(tokens(text, "mean"), size) for text in content["captions"]]
        assert each == expected["per_caption"]
        for variant in ("mean", "corpus"):
            found = result[f"Distinct-{size} {variant}"]["value"]
            assert found == pytest.approx(expected[variant])


def test_mmhal_gives_the_scores_of_both_scripts(golden):
    content = golden("mmhal_rating")
    for text, score in content["score_of_text"].items():
        assert (rating(text) or 0) == score
    assert rating("Rating:3") is None
    texts = {f"{n:02d}/{TYPES[n % 8]}": text for n, text in enumerate(content["reviews"])}
    result = score_ratings(Ratings(texts, "judge", ""))
    figures = result["figures"]
    assert figures["average rating"]["value"] == content["average"]
    assert figures["hallucination rate"]["value"] == content["hallucination_rate"]
    informative = figures["informativeness"]["value"] * 100
    assert informative == pytest.approx(content["informativeness_rlhfv"])
    assert [figures[f"{kind} rating"]["value"] for kind in TYPES] == pytest.approx(
        content["by_type"]
    )


def test_openchair_gives_the_official_score(golden):
    from vlmheads_eval.benchmarks.openchair import IGNORED, concrete, score_ratings, verdict

    content = golden("openchair")
    texts = {}
    for row, (caption, parsed) in enumerate(
        zip(content["captions"], content["parsed"], strict=True)
    ):
        said = zip(caption["objects"], caption["llm"], parsed, strict=True)
        for number, (name, text, expected) in enumerate(said):
            assert (name in IGNORED) == (expected == "ignore")
            if name not in IGNORED:
                texts[f"{row:04d}/{number}/{name}"] = text
                assert verdict(text) == (None if expected.startswith("ERROR") else expected)
    result = score_ratings(Ratings(texts, "judge", ""))
    assert result["figures"]["OpenCHAIR"]["value"] == pytest.approx(content["score"])
    assert (result["unsure"], result["unparsed"]) == (1, 1)
    rated = {"cat": 4.86, "anvil": 4.97, "sky": 4.45, "boat": 4.5, "idea": 1.61, "freedom": 2.0}
    for word, expected in content["concrete_at_4.5"].items():
        assert concrete(word, rated) == expected


@pytest.mark.parametrize(("said", "value"), [("yes", 0.0), ("no", 1.0)])
def test_openchair_needs_neither_a_yes_nor_a_no(said, value):
    from vlmheads_eval.benchmarks.openchair import score_ratings

    ratings = Ratings({"0000/0/cat": said, "0001/0/dog": said}, "judge", "")
    assert score_ratings(ratings)["figures"]["OpenCHAIR"]["value"] == value


@pytest.mark.parametrize("variant", ["synonyms", "exact"])
def test_capture_matches_graphs_as_the_package_does(golden, nltk_data, variant):
    for case in golden("capture_matching")["cases"]:
        graphs = [read_graph("", case[side]) for side in ("candidate", "reference")]
        found = compare_graphs(*graphs, variant)
        assert found == pytest.approx(case[variant], abs=6e-10), case["name"]


REAL = os.environ.get("HALLUSIONBENCH_JSON")


@pytest.mark.skipif(REAL is None, reason="HALLUSIONBENCH_JSON names no file")
@pytest.mark.parametrize("reading", ["strict", "internvl-images"])
def test_floors_of_the_real_hallusionbench(golden, reading):
    items = hallusionbench.load(Source(Path(REAL))).items
    items = [item for item in items if hallusionbench.asked(item, reading)]
    floors = floor_figures(hallusionbench.HALLUSIONBENCH, items, reading)
    for name, content in golden("hallusionbench")[
        "constant_answers_on_the_real_question_file"
    ].items():
        expected = content if reading == "strict" else content["image_items_substring"]
        for key in ("aAcc", "fAcc", "qAcc"):
            assert floors[name][key] * 100 == pytest.approx(expected[key], abs=5e-5)
