import json
import random

import pytest
from vlmheads_eval.pope.parsers import PARSERS
from vlmheads_eval.pope.questions import STRATEGIES, build_questions, read_questions, sample_images
from vlmheads_eval.pope.score import match_answers, read_answers, score_pope

from vlmheads.errors import VlmHeadsError

OFFICIAL = {
    "pope": "POPE:evaluate.py",
    "opera": "OPERA:pope_eval.py",
    "vlmevalkit": "VLMEvalKit:dataset/utils/yorn.py (no judge)",
    "repope": "RePOPE:src/eval_utils.py",
    "lmms": "lmms-eval:tasks/pope/utils.py",
}
COLUMNS = {
    "pope": "POPE",
    "opera": "OPERA",
    "lmms": "lmms-eval",
    "vlmevalkit": "VLMEvalKit",
    "repope": "RePOPE",
}
NAMES = {"f1_score": "f1", "acc": "accuracy", "yes": "yes_ratio"}


def plain(reply):
    known = {"yes": "yes", "no": "no"}
    return known.get(str(reply).lower())


@pytest.fixture
def golden(shared):
    folder = shared("pope/golden_parsers")
    return read_questions(folder / "questions.json"), read_answers(folder / "answers.json")


@pytest.mark.parametrize("parser", OFFICIAL)
def test_official_replies_are_read_alike(parser, golden, shared_json):
    questions, answers = golden
    expected = shared_json("pope/golden_parsers/expected.json")[OFFICIAL[parser]]["pred"]
    texts = match_answers(questions, answers)
    actual = [
        PARSERS[parser].read(text, question.label)
        for text, question in zip(texts, questions.questions, strict=True)
    ]
    assert actual == [plain(reply) for reply in expected]


@pytest.mark.parametrize("parser", COLUMNS)
def test_odd_strings_are_read_as_by_the_official_parser(parser, shared_json):
    table = shared_json("pope/golden_parsers/parser_table.json")
    actual = [PARSERS[parser].read(row["text"], "yes") for row in table]
    assert actual == [plain(row[COLUMNS[parser]]) for row in table]


def test_vcd_reads_an_answer_by_its_label(shared_json):
    table = shared_json("pope/golden_parsers/parser_table.json")
    read = PARSERS["vcd"].read
    actual = [(read(row["text"], "yes"), read(row["text"], "no")) for row in table]
    assert actual == [(row["VCD_if_gt_yes"], row["VCD_if_gt_no"]) for row in table]


@pytest.mark.parametrize(
    ("parser", "script"),
    [*list(OFFICIAL.items())[:1], *list(OFFICIAL.items())[2:3], ("lmms", OFFICIAL["lmms"])],
)
def test_measures_are_those_of_the_official_script(parser, script, golden, shared_json):
    questions, answers = golden
    official = shared_json("pope/golden_parsers/expected.json")[script]
    actual = score_pope([questions], answers, parser)["mean"]
    expected = {NAMES.get(name, name): value for name, value in official.items()}
    expected = {name: value for name, value in expected.items() if name in actual}
    assert {name: actual[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_vcd_measures_are_those_of_the_official_script(golden, shared_json):
    questions, answers = golden
    official = shared_json("pope/golden_parsers/expected.json")["VCD:experiments/eval/eval_pope.py"]
    actual = score_pope([questions], answers, "vcd")["mean"]
    names = {"Precision": "precision", "Recall": "recall", "F1": "f1", "Accuracy": "accuracy"}
    assert [actual[name] for name in names.values()] + [actual["yes_ratio"]] == [
        *(official[name] for name in names),
        official["yes"],
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_questions_are_built_as_by_the_official_script(strategy, shared, shared_json):
    images = [
        (image["image"], image["objects"])
        for image in shared_json("pope/golden_construction/segmentation.json")
    ]
    built = build_questions(images, strategy, draws=random.Random(0), reference_wording=True)
    lines = shared(f"pope/golden_construction/out/hand_pope_{strategy}.json").read_text()
    assert [question.to_dict() for question in built] == [
        json.loads(line) for line in lines.splitlines()
    ]


IMAGES = [("a.jpg", ["dog", "orange", "cat", "car"]), ("b.jpg", ["dog", "bus", "cup", "bed"])]


def test_our_wording_writes_an_and_image():
    questions = build_questions(IMAGES, "popular", draws=random.Random(0))
    assert questions[2].text == "Is there an orange in the image?"


def test_an_image_with_every_object_is_refused_instead_of_searched_for_ever():
    with pytest.raises(VlmHeadsError, match=r"a\.jpg: every object"):
        build_questions(IMAGES[:1], "random", draws=random.Random(0))


def test_too_few_images_with_enough_objects_are_refused():
    with pytest.raises(VlmHeadsError, match="2 images"):
        sample_images(IMAGES, 3, seed=0)


@pytest.fixture
def ask(tmp_path):
    def score(labels, answers, parser="strict"):
        questions = tmp_path / "coco_random.json"
        questions.write_text(
            "\n".join(
                json.dumps(
                    {"question_id": i, "image": f"{i}.jpg", "text": "Is there a dog?", "label": a}
                )
                for i, a in enumerate(labels)
            )
        )
        replies = tmp_path / "answers.jsonl"
        replies.write_text(
            "".join(
                json.dumps({"question_id": i, "answer": text}) + "\n"
                for i, text in enumerate(answers)
            )
        )
        return score_pope([read_questions(questions)], read_answers(replies), parser)

    return score


def test_strict_counts_what_it_cannot_read_as_wrong_and_says_so(ask):
    result = ask(["yes", "no"], ["Maybe", "No."])["splits"]["random"]
    assert (result["accuracy"], result["recall"], result["unparsed"]) == (0.5, 0.0, 0.5)


@pytest.mark.parametrize("parser", PARSERS)
def test_never_saying_yes_divides_by_nothing(ask, parser):
    result = ask(["no"], ["No"], parser)["mean"]
    assert (result["precision"], result["recall"], result["f1"]) == (None, None, None)


def test_no_question_or_no_answer_at_all_is_refused(ask):
    with pytest.raises(VlmHeadsError, match="holds no question"):
        ask([], [])
    with pytest.raises(VlmHeadsError, match="holds no answer"):
        ask(["yes"], [])


def test_a_question_that_is_there_twice_is_refused(tmp_path):
    line = '{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}\n'
    path = tmp_path / "coco_random.json"
    path.write_text(line + line)
    with pytest.raises(VlmHeadsError, match=r"coco_random\.json:2: question 1 again"):
        read_questions(path)


@pytest.mark.parametrize(
    "answer",
    "Yes/No|yes or no|Yes and no|Yes, no|No/yes.|yes, or maybe no|Maybe||/|Yes\\No|yes (no)"
    "|no - yes|YES OR NO?|Yes. No.|yesno|y".split("|"),
)
def test_strict_reads_neither_where_both_are_said(answer):
    assert PARSERS["strict"].read(answer, "yes") is None


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("Yes.", "yes"),
        ("Yes, there is a dog, but no cat.", "yes"),
        ("No, no dog.", "no"),
        ("**No**", "no"),
        ("yes yes", "yes"),
        ("Yes and it is brown", "yes"),
    ],
)
def test_strict_reads_the_first_word(answer, reply):
    assert PARSERS["strict"].read(answer, "no") == reply


def test_a_missing_answer_is_named(ask):
    with pytest.raises(VlmHeadsError, match="no answer to question 1 of"):
        ask(["yes", "no"], ["Yes"])


def test_answers_without_numbers_go_by_their_order(golden):
    questions, answers = golden
    texts = match_answers(questions, answers)
    assert match_answers(questions, {(None, None): texts}) == texts
