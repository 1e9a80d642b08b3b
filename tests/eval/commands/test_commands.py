import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from vlmheads_eval.commands.evaluate import evaluate

from vlmheads.errors import install_hint


@pytest.fixture
def run():
    def invoke(*arguments):
        return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def files(tmp_path):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"1": ["dog"], "2": ["dog", "cat"]}))
    captions = tmp_path / "captions.jsonl"
    lines = [
        {"image_id": 2, "caption": "A cat and a bus stop."},
        {"image_id": "0001", "caption": "Dogs on a bench."},
    ]
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return truth, captions


def test_score_writes_captions_in_the_order_of_the_file(run, files, tmp_path):
    truth, captions = files
    out = tmp_path / "result.json"
    result = run("score", "chair", captions, "--ground-truth", truth, "--json", out)
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    assert next(iter(content)) == "overall"
    assert content["captions"] == [
        {
            "image_id": 2,
            "generated": ["cat"],
            "hallucinated": [],
            "indices": [],
            "CHAIRs": 0,
            "CHAIRi": 0.0,
            "recall": 0.5,
            "words": 7,
        },
        {
            "image_id": "0001",
            "generated": ["dog", "bench"],
            "hallucinated": [["bench", "bench"]],
            "indices": [3],
            "CHAIRs": 1,
            "CHAIRi": 0.5,
            "recall": 1.0,
            "words": 5,
        },
    ]


def test_score_of_an_empty_file_is_refused_and_nothing_is_written(run, files, tmp_path):
    truth, captions = files
    captions.write_text("")
    out = tmp_path / "result.json"
    result = run("score", "chair", captions, "-g", truth, "--json", out)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "holds no caption" in result.stderr
    assert not list(tmp_path.glob("result*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"image_id": 1', "captions.jsonl:3: "),
        (b'{"image_id": 2, "caption": "x"}', "again"),
        (b"\xff", "not UTF-8"),
    ],
    ids=["torn", "twice", "bytes"],
)
def test_a_bad_line_is_one_line_on_the_terminal(run, files, line, message):
    truth, captions = files
    captions.write_bytes(captions.read_bytes() + line)
    result = run("score", "chair", captions, "-g", truth)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_image_is_named_and_nothing_else_is_lost(run, files):
    truth, captions = files
    captions.write_text('{"image_id": 9, "caption": "A dog."}\n' + captions.read_text())
    result = run("score", "chair", captions, "-g", truth)
    assert result.exit_code == 0
    assert "captions.jsonl:1: image 9 is not in the ground truth" in result.stderr
    assert "3 captions" in result.output


def test_compare_and_report_share_their_figures(run, files, tmp_path):
    truth, captions = files
    other = tmp_path / "other.jsonl"
    other.write_text(captions.read_text().replace("bench", "mat"))
    figures = tmp_path / "figures.json"
    options = (captions, other, "-g", truth, "--draws", 200)
    assert run("compare", *options, "--json", figures).exit_code == 0
    result = run("report", *options, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "report" / "comparison.json").read_text())
    assert written == json.loads(figures.read_text())
    names = {path.suffix for path in (tmp_path / "report").iterdir()}
    assert names == {".json", ".md", ".csv", ".tex", ".html"}


def test_captions_without_ground_truth_are_refused(run, files):
    result = run("score", "chair", files[1])
    assert result.exit_code == 2
    assert "--ground-truth" in result.stderr


def test_missing_data_of_wordnet_is_one_line_that_says_what_to_do(files):
    truth, captions = files
    command = [sys.executable, "-m", "vlmheads_eval", "score", "chair", str(captions)]
    command += ["-g", str(truth), "--variant", "wordnet"]
    # Neither the variable nor a home folder with data: what a new machine has.
    environment = {**os.environ, "NLTK_DATA": "", "HOME": str(captions.parent)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "NLTK_DATA" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_help_loads_neither_torch_nor_nltk():
    code = (
        "import sys, vlmheads_eval.commands.evaluate\n"
        "heavy = {'torch', 'transformers', 'nltk', 'numpy', 'pycocotools'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout.strip() == "[]"


def test_a_missing_package_of_the_extra_is_one_line(files):
    code = (
        "import sys; sys.modules['nltk'] = None\n"
        "from vlmheads_eval.commands.evaluate import evaluate\n"
        "evaluate(sys.argv[1:])"
    )
    truth, captions = files
    captions.write_text('{"image_id": 1, "caption": "A \\"dog\\"."}\n')  # Needs NLTK's rules.
    command = [sys.executable, "-c", code, "score", "chair", str(captions), "-g", str(truth)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert f"nltk is not installed; install it with {install_hint('eval')}" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_pope_is_scored_from_files(run, tmp_path):
    questions, answers = tmp_path / "pope_random.json", tmp_path / "answers.jsonl"
    questions.write_text('{"question_id": 1, "image": "a", "text": "Is it?", "label": "yes"}\n')
    answers.write_text('{"question_id": 1, "answer": "Yes."}\n')
    out = tmp_path / "result.json"
    result = run("score", "pope", answers, "-g", questions, "--json", out)
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["splits"]["random"]["accuracy"] == 1.0


def test_a_run_of_another_task_is_refused_with_the_command_that_scores_it(run, tmp_path):
    (tmp_path / "config.json").write_text('{"task": "caption", "ground_truth": []}')
    (tmp_path / "predictions.jsonl").write_text('{"image_id": 1, "caption": "A dog."}\n')
    for task in ("pope", "amber"):
        result = run("score", task, tmp_path, "-g", tmp_path)
        assert result.exit_code == 2
        assert f"`vlmheads eval score chair {tmp_path}`" in result.stderr
