"""Every kind of bad input ends in one line and exit code 2."""

import json

import pytest
import tiny_benchmarks as tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vlmheads_eval.benchmarks.readings import READINGS
from vlmheads_eval.benchmarks.record import Source
from vlmheads_eval.benchmarks.registry import ASKED, COMPARED
from vlmheads_eval.data import load_material

from vlmheads.errors import VlmHeadsError


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


@pytest.fixture
def mme(tmp_path):
    """MME's data, its answers by question, and the file that they go to."""
    data = tiny.mme_release(tmp_path / "mme")
    samples = load_material([str(data)], "mme", workspace=tmp_path).samples
    return data, {sample.key: "Yes" for sample in samples}, tmp_path / "answers.jsonl"


def test_half_of_the_answers_are_refused(run, mme):
    data, answers, path = mme
    tiny.write_answers(path, dict(list(answers.items())[:8]))
    refused(run("score", "mme", path, "-g", data), "8 of 16 questions without an answer")
    whole = path.with_name("whole.jsonl")
    tiny.write_answers(whole, answers)
    compare = run("compare", whole, path, "--task", "mme", "-g", data)
    refused(compare, "8 of 16 questions without an answer")


def test_a_question_twice_is_refused_though_the_answer_is_the_same(run, mme):
    data, answers, path = mme
    tiny.write_answers(path, answers)
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    refused(run("score", "mme", path, "-g", data), "answers.jsonl:17", "again")


def test_the_truth_in_a_rows_own_field_is_never_taken_for_the_answer(run, tmp_path):
    rows = [
        {"question_id": n, "object": "dog", "answer": truth, "response": "no"}
        for n, truth in enumerate(("yes", "no"))
    ]
    data, answers = tmp_path / "data.json", tmp_path / "answers.json"
    data.write_text(json.dumps([{**row, "response": None} for row in rows]))
    answers.write_text(json.dumps(rows))
    file = tmp_path / "score.json"
    result = run("score", "dash-b", answers, "-g", data, "--json", file, "--draws", 100)
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["figures"]["ACC"]["value"] == 0.5


def test_a_byte_order_mark_is_left_out(run, mme, tmp_path):
    data, answers, path = mme
    tiny.write_answers(path, answers)
    table, lists = tiny.mme_tsv(tmp_path / "MME.tsv"), tiny.dash_b_lists(tmp_path / "dash")
    sources = (("mme", table), ("mme", data), ("dash-b", lists))
    before = [ASKED[name](Source(place)).items for name, place in sources]
    for file in (path, table, *data.rglob("*.txt"), *lists.rglob("*.json")):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [ASKED[name](Source(place)).items for name, place in sources] == before
    assert run("score", "mme", path, "-g", data, "--draws", 100).exit_code == 0


def test_an_answer_to_no_question_is_refused(run, mme):
    data, answers, path = mme
    tiny.write_answers(path, {**answers, "existence/999.jpg/1": "Yes"})
    refused(run("score", "mme", path, "-g", data), "existence/999.jpg/1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no answers"),
        (b"\n \n", "no answers"),
        (b"[]", "no answers"),
        (b'{"question_id": "a", "error": "no file"}\n', "1 failed"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"question_id": "a"}\n', "no answer"),
        (b'{"answer": "Yes"}\n', "no question"),
        (b'{"question_id": true, "answer": "Yes"}\n', "no question"),
        (b'{"question_id": "a", "answer": 1}\n', "no answer"),
        (b'{"question_id": "a", "ans', "answers.jsonl:1"),
        (b"3\n", "answers.jsonl:1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_file_that_holds_no_answers_is_refused(run, mme, content, words):
    data, _, path = mme
    path.write_bytes(content)
    refused(run("score", "mme", path, "-g", data), words)


@pytest.mark.parametrize("name", sorted(ASKED))
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[1, 2]",
        "{}",
        "\ufeff[]",
        '[{"question_id": 1}]',
        '[{"question_id": [], "image": {}, "category": 1}]',
        "[" * 5000,
        '[{"text": null, "question_type": {}, "label": "Z", "question_id": 1, "question": "q"}]',
    ],
    ids=lambda value: value[:12],
)
def test_a_file_of_something_else_is_no_benchmark(run, tmp_path, name, content):
    path = tmp_path / "data.json"
    path.write_text(content)
    out = tmp_path / "run"
    refused(run("predict", name, "--data", path, "--out", out))
    assert not (out / "predictions.jsonl").exists()


@pytest.mark.parametrize("name", [*sorted(ASKED), "amber"])
def test_a_folder_of_something_else_is_no_benchmark(run, tmp_path, name):
    (tmp_path / "notes.md").write_text("nothing")
    refused(run("data", name, "--data", tmp_path))


def test_questions_that_are_there_twice_are_refused(tmp_path):
    data = tiny.hallusionbench(tmp_path)
    records = json.loads(data.read_text())
    data.write_text(json.dumps([*records, records[0]]))
    with pytest.raises(VlmHeadsError, match="VD_illusion_0_0_0 again"):
        ASKED["hallusionbench"](Source(data))
    for name, rows in (("popev2", tiny.popev2_rows()), ("humblebench", tiny.humblebench_rows())):
        path = tmp_path / f"{name}.json"
        plain = [{key: value for key, value in row.items() if "image" not in key} for row in rows]
        path.write_text(json.dumps([*plain, plain[0]]))
        with pytest.raises(VlmHeadsError, match="again"):
            ASKED[name](Source(path))
    path = tmp_path / "dash.json"
    row = {"img_id": "0.png", "object_name": "dog", "gt": "no"}
    path.write_text(json.dumps([row, row]))
    with pytest.raises(VlmHeadsError, match=r"0\.png again"):
        ASKED["dash-b"](Source(path))


def test_amber_items_that_are_there_twice_are_refused(tmp_path):
    data = tiny.amber(tmp_path)
    items = json.loads((data / "annotations.json").read_text())
    for wrong, message in (
        ([*items, items[0]], "item 1 again"),
        ([*items, {"id": 9, "type": "poem", "truth": "yes"}], "'poem'"),
        ([*items, {"id": 9, "type": "relation", "truth": ["yes"]}], "not AMBER|of the type"),
        ([*items, {"id": 9, "type": "generative", "truth": 3, "hallu": []}], r"\[8\].truth"),
        ({"a": 3}, "not AMBER|expected an object; AMBER"),
    ):
        (data / "annotations.json").write_text(json.dumps(wrong))
        with pytest.raises(VlmHeadsError, match=message):
            COMPARED["amber"].load(Source(data))


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "a/../../b.png"])
def test_images_outside_of_their_folder_are_refused(tmp_path, name):
    data = tiny.hallusionbench(tmp_path)
    records = json.loads(data.read_text())
    records[0]["filename"] = name
    data.write_text(json.dumps(records))
    with pytest.raises(VlmHeadsError, match="a name inside of"):
        ASKED["hallusionbench"](Source(data))


def test_without_pyarrow_parquet_is_refused_with_the_way_to_get_it(run, tmp_path, monkeypatch):
    path = tmp_path / "test.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    result = run("predict", "popev2", "--data", path, "--out", tmp_path / "run")
    refused(result, "pyarrow", "[parquet]")


def test_a_broken_parquet_file_is_one_line(run, tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "test.parquet"
    path.write_bytes(b"PAR1 and no more")
    refused(run("predict", "popev2", "--data", path, "--out", tmp_path / "run"), "test.parquet")


def test_a_table_of_other_columns_is_one_line(run, tmp_path):
    pytest.importorskip("pyarrow")
    path = tiny.write_parquet(tmp_path / "test.parquet", [{"a": 1, "image": 3}])
    for name in sorted(ASKED):
        refused(run("predict", name, "--data", path, "--out", tmp_path / "run"))


def test_a_result_never_overwrites_what_it_was_made_of(run, mme, tmp_path):
    data, answers, path = mme
    tiny.write_answers(path, answers)
    other = tiny.write_answers(tmp_path / "other.jsonl", answers)
    own = tmp_path / "own"
    own.mkdir()
    for task, question in tiny.MME_ASKED.items():
        (own / f"{task}.txt").write_text(f"000.jpg\t{question}\tYes\tYes\n")
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image_id": 1, "caption": "A dog."}\n')
    for command, target in (
        (("score", "mme", path, "-g", data), path),
        (("score", "mme", path, "-g", data), data / "count" / "000.txt"),
        (("score", "mme", own, "-g", data), own / "color.txt"),
        (("compare", path, other, "--task", "mme", "-g", data), other),
        (("score", "distinct", captions), captions),
    ):
        before = target.read_bytes()
        result = run(*command, "--json", target)
        refused(result, "would overwrite what is read")
        assert (result.stdout, target.read_bytes()) == ("", before)
    missing = tmp_path / "none" / "x.json"
    refused(run("score", "distinct", captions, "--json", missing), "no folder")


def test_options_without_effect_are_refused(run, mme, tmp_path):
    data, answers, path = mme
    other = tiny.write_answers(tmp_path / "other.jsonl", answers)
    tiny.write_answers(path, answers)
    both = (path, other, "-g", data, "--task", "mme")
    refused(run("compare", *both, "--parser", "strict"), "--parser")
    refused(run("compare", *both, "--variant", "fixed"), "--variant")
    refused(run("compare", *both, "--reading", "poem"), "reading 'poem'")
    refused(run("compare", path, path, "-g", data, "--task", "mme", "--names", "a,b"), "twice")
    refused(run("compare", path, "-g", data, "--task", "mme"), "1 run")
    refused(run("report", *both, "--out", tmp_path / "report"), "eval compare")
    refused(run("predict", "mme", "--task", "pope", "--data", data, "--out", tmp_path / "run"))
    ids = ("--ids", path)
    refused(run("predict", "mme", "--data", data, *ids, "--out", tmp_path / "run"), "--ids")
    refused(run("predict", "mme", "--out", tmp_path / "run"), "--data")
    prompt = ("--prompt", "Look.")
    refused(run("predict", "mme", "--data", data, *prompt, "--out", tmp_path / "run"), "{question}")


def test_a_reading_of_verdicts_needs_verdicts(run, tmp_path):
    data = tiny.hallusionbench(tmp_path)
    samples = load_material([str(data)], "hallusionbench", workspace=tmp_path).samples
    path = tiny.write_answers(tmp_path / "a.jsonl", {sample.key: "Yes" for sample in samples})
    command = ("score", "hallusionbench", path, "-g", data, "--reading", "judged")
    refused(run(*command), "judge's verdict")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_any_answer_can_be_read(answer):
    for read in READINGS.values():
        assert read(answer) in ("yes", "no", None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    "question_id question answer category label type image example_id normal_label gt_answer "
    "counterfactual_label object visual_input set_id figure_id subcategory text "
    "question_type".split()
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(FIELDS, JSON, max_size=12), max_size=3))
def test_any_table_is_read_or_refused(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("fuzz") / "data.json"
    path.write_text(json.dumps(rows))
    for load in ASKED.values():
        try:
            items = load(Source(path)).items
        except VlmHeadsError:
            continue
        assert items
