"""Made-up data in each format, asked of the embedded model, scored and compared."""

import json

import pytest
import tiny_benchmarks as tiny
from vlmheads_eval.data import load_material

from vlmheads.images import read_image


def mme_parquet(folder):
    return tiny.write_parquet(folder / "data" / "test-0.parquet", tiny.mme_rows(tiny.struct))


def mme_tsv(folder):
    return tiny.mme_tsv(folder / "MME.tsv")


def dash_b_parquet(folder):
    return tiny.write_parquet(folder / "test.parquet", tiny.dash_b_rows())


def popev2_in_a_hub_cache(folder):
    cache = folder / "datasets--Monosail--POPEv2"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    tiny.write_parquet(cache / "snapshots" / "abc" / "test.parquet", tiny.popev2_rows())
    (cache / "snapshots" / "old").mkdir()
    return cache


def humblebench_parquet(folder):
    return tiny.write_parquet(folder / "train.parquet", tiny.humblebench_rows())


CASES = {
    "mme, release": ("mme", tiny.mme_release, 16),
    "mme, parquet": ("mme", mme_parquet, 16),
    "mme, tsv": ("mme", mme_tsv, 16),
    "hallusionbench": ("hallusionbench", tiny.hallusionbench, 6),
    "dash-b, lists": ("dash-b", tiny.dash_b_lists, 6),
    "dash-b, parquet": ("dash-b", dash_b_parquet, 4),
    "popev2": ("popev2", popev2_in_a_hub_cache, 6),
    "humblebench": ("humblebench", humblebench_parquet, 4),
    "humblebench-e": ("humblebench-e", humblebench_parquet, 4),
}


@pytest.mark.parametrize("case", CASES)
def test_a_benchmark_of_every_format_is_asked_scored_and_compared(run, tmp_path, case):
    name, build, number = CASES[case]
    if build not in (tiny.mme_release, mme_tsv, tiny.hallusionbench, tiny.dash_b_lists):
        pytest.importorskip("pyarrow")
    data = build(tmp_path)
    material = load_material([str(data)], name, workspace=tmp_path / "work")
    assert len(material.samples) == number
    for sample in material.samples:
        assert not sample.shown or read_image(sample.image)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    tiny.write_answers(first, {sample.key: "No" for sample in material.samples})
    tiny.write_answers(second, {sample.key: "Yes" for sample in material.samples[::-1]})
    file = tmp_path / "score.json"
    result = run("score", name, first, "--data", data, "--json", file, "--draws", 100)
    assert result.exit_code == 0, result.output
    score = json.loads(file.read_text())
    assert score["questions"] == score["questions_in_data"] == number
    assert score["unparsed"] == (name.startswith("humblebench"))
    figure = next(iter(score["figures"].values()))
    assert figure["of"] == number
    assert len(figure["floors"]) in (2, 3, 5)
    assert all(len(digest) == 64 for digest in score["sha256"].values())
    options = ("--task", name, "-g", data, "--draws", 100, "--json", file)
    result = run("compare", first, second, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert found["methods"][0]["verdict"] in result.output
    assert found["methods"][0]["tests"]["questions"]["items"] == number
    for title, value in found["floors"].get("always yes", {}).items():
        assert found["runs"][1]["figures"][title]["value"] == value


def test_the_embedded_model_is_asked_resumed_scored_and_compared(run, tmp_path):
    data = tiny.hallusionbench(tmp_path)  # Two of its questions have no image.
    out, other = tmp_path / "plain", tmp_path / "vhr"
    command = ("predict", "hallusionbench", "--data", data, "--max-new-tokens", 4)
    assert run(*command, "--out", out).exit_code == 0
    predictions = out / "predictions.jsonl"
    whole = predictions.read_text()
    assert not any("error" in json.loads(line) for line in whole.splitlines())
    predictions.write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert run(*command, "--out", out).exit_code == 0
    assert predictions.read_text() == whole
    assert run(*command, "--out", other, "--plugin", "vhr").exit_code == 0
    result = run("score", "hallusionbench", out, "--draws", 100)
    assert result.exit_code == 0, result.output
    assert "6 questions, 3 sets" in result.output
    result = run("compare", out, other, "--draws", 100)
    assert result.exit_code == 0, result.output
    assert "vhr against plain" in result.output
    data.write_text(data.read_text().replace("right?", "wrong?"))
    result = run(*command, "--out", out)
    assert result.exit_code == 2
    assert "another config: data_sha256" in result.stderr


def run_folder(folder, samples, data, answer="Yes"):
    """Write a finished run as `predict` leaves it."""
    folder.mkdir()
    config = {"task": "mme", "samples": samples, "ground_truth": [str(data)]}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"sample": key, "question_id": key, "answer": answer} for key in samples]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_drawn_clusters_are_scored_as_a_part(run, tmp_path):
    data = tiny.mme_release(tmp_path / "mme")
    samples = load_material([str(data)], "mme", workspace=tmp_path, num=3).samples
    out = run_folder(tmp_path / "run", [sample.key for sample in samples], data)
    file = tmp_path / "score.json"
    result = run("score", "mme", out, "--draws", 100, "--json", file)
    assert result.exit_code == 0, result.output
    counted = {"samples": 6, "answered": 6, "failed": 0, "missing": 0}
    assert json.loads(file.read_text())["run"] == counted
    assert "6 questions of the 16 in the data, 3 images" in result.output


def test_amber_has_floors_intervals_and_sentences_beside_its_figures(run, tmp_path, nltk_data):
    data = tiny.amber(tmp_path)
    first, second, file = (
        tmp_path / name for name in ("first.jsonl", "second.jsonl", "score.json")
    )
    texts = dict.fromkeys(range(1, 9), "Yes")
    write_responses(first, texts)
    result = run("score", "amber", first, "-g", data, "--json", file)
    assert result.exit_code == 0, result.output
    assert "read as sentences" in result.output
    score = json.loads(file.read_text())
    assert score["floors"]["always no"]["existence"]["accuracy"] == 100.0
    assert score["floors"]["always yes"]["all"]["f1"] == 0.0
    figures = score["intervals"]["official"]["figures"]
    assert figures["existence accuracy"]["of"] == 2
    assert {"CHAIR", "Cover", "Hal", "Cog"} <= set(figures)
    texts = {3: "No", 4: "No", 5: "Yes", 6: "Yes", 7: "No.", 8: "There is no contact."}
    write_responses(second, texts | {1: "A dog under the sky.", 2: "A cat."})
    compared = {}
    for reading in ("official", "sentence"):
        options = ("--task", "amber", "-g", data, "--reading", reading, "--draws", 100)
        result = run("compare", first, second, *options, "--json", file)
        assert result.exit_code == 0, result.output
        compared[reading] = json.loads(file.read_text())["runs"][1]["figures"]
    assert compared["official"]["relation accuracy"]["value"] == 0.0
    assert compared["sentence"]["all accuracy"]["value"] == 1.0
    assert compared["official"]["Hal"]["value"] == 0.5


def write_responses(path, texts):
    lines = [json.dumps({"id": number, "response": text}) for number, text in texts.items()]
    path.write_text("\n".join(lines) + "\n")


def test_a_part_of_amber_may_be_left_out_as_a_whole(run, tmp_path):
    data = tiny.amber(tmp_path)
    answers = tmp_path / "answers.jsonl"
    write_responses(answers, {3: "No", 4: "No"})
    result = run("score", "amber", answers, "-g", data)
    assert result.exit_code == 0, result.output
    write_responses(answers, {3: "No"})
    result = run("score", "amber", answers, "-g", data)
    assert result.exit_code == 2
    assert "1 of 2 questions without an answer" in result.stderr


def test_mmes_own_result_files_are_matched_by_question(run, tmp_path):
    data = tiny.mme_release(tmp_path / "mme")
    results = tmp_path / "results"
    results.mkdir()
    for task, question in tiny.MME_ASKED.items():
        lines = [
            f"00{number}.jpg\t{question.replace('dog', name).replace('  ', ' ')}\t{truth}\t{truth}"
            for number in (1, 0)
            for name, truth in (("cat", "No"), ("dog", "Yes"))
        ]
        (results / f"{task}.txt").write_text("\n".join(lines) + "\n")
    file = tmp_path / "score.json"
    result = run("score", "mme", results, "-g", data, "--json", file, "--draws", 100)
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["figures"]["total"]["value"] == 800.0
    broken = results / "count.txt"
    broken.write_text(broken.read_text().replace("\tYes\tYes", "\tYes\tYes\tand more", 1))
    result = run("score", "mme", results, "-g", data)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "count.txt" in result.stderr


def test_judged_benchmarks_are_asked_and_their_ratings_read(run, tmp_path):
    data = tiny.mmhal(tmp_path)
    samples = load_material(
        [str(data)], "mmhal", workspace=tmp_path, images=tmp_path / "images"
    ).samples
    assert all(read_image(sample.image) for sample in samples)
    out = run_folder(tmp_path / "run", [sample.key for sample in samples], data, "A dog.")
    requests, ratings = tmp_path / "requests.jsonl", tmp_path / "ratings.jsonl"
    command = ("requests", "mmhal", out, "--judge", "some-judge", "--out", requests)
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "2 requests to some-judge" in result.output
    assert run(*command).exit_code == 2  # It is there.
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    assert all(line["body"]["model"] == "some-judge" for line in lines)
    assert "A dog sits on the bench." in lines[0]["body"]["messages"][0]["content"]
    said = [
        {
            "custom_id": line["custom_id"],
            "error": None,
            "response": {"body": {"choices": [{"message": {"content": text}}]}},
        }
        for line, text in zip(lines, ["Rating: 6", "none"], strict=True)
    ]
    ratings.write_text("".join(json.dumps(one) + "\n" for one in said[::-1]))
    file = tmp_path / "score.json"
    command = ("score", "mmhal", ratings, "--requests", requests, "--draws", 100)
    result = run(*command, "--json", file)
    assert result.exit_code == 0, result.output
    score = json.loads(file.read_text())
    assert score["judge"] == "some-judge"
    assert score["unparsed"] == 0.5
    assert score["figures"]["average rating"]["value"] == 3.0
    ratings.write_text(json.dumps(said[0]) + "\n")
    result = run(*command)
    assert result.exit_code == 2
    assert "1 of 2 requests without an answer" in result.stderr


def test_fields_of_a_request_fill_nothing_themselves():
    from vlmheads_eval.benchmarks.judged import fill

    assert (
        fill("{question} {answer} {x}", {"question": "{answer}", "answer": "b"}) == "{answer} b {x}"
    )


def test_openchair_asks_about_concrete_nouns(tmp_path, run):
    from vlmheads_eval.benchmarks.openchair import load, read_concreteness, requests
    from vlmheads_eval.benchmarks.record import Answer, Source

    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "A cat sleeps."}\n{"text": "A boat."}\n')
    table = tmp_path / "concreteness.csv"
    table.write_text("Word,Bigram,Conc.M\nCat,0,4.86\nphoto,0,4.9\nidea,0,1.6\n")
    items = load(Source(data)).items
    answers = {item.key: Answer("photo cat idea cat") for item in items}
    found = requests(items, answers, read_concreteness(table), str.split)
    assert [one.key for one in found] == [
        "0000/1/cat",
        "0000/2/cat",
        "0001/1/cat",
        "0001/2/cat",
    ]
    assert found[2].fields == {"reference": "A boat.", "object": "cat"}


def test_openchair_without_its_table_of_concreteness_is_refused(run, tmp_path):
    data, out = tmp_path / "data.jsonl", tmp_path / "requests.jsonl"
    data.write_text('{"text": "A cat sleeps."}\n')
    answers = tiny.write_answers(tmp_path / "answers.jsonl", {"0000": "Two cats."})
    command = ("requests", "openchair", answers, "--data", data, "--judge", "j", "--out", out)
    result = run(*command)
    assert result.exit_code == 2
    assert "--concreteness" in result.stderr
    table = tmp_path / "concreteness.csv"
    table.write_text("Word,Conc.M\ncat,4.86\n")
    pytest.importorskip("spacy")
    result = run(*command, "--concreteness", table)
    if "is not installed" in result.output:
        pytest.skip("no English model of spaCy")
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["custom_id"] == "0000/0/cat"


def test_distinct_and_capture_read_files(run, tmp_path):
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image_id": 1, "caption": "A dog. A dog."}\n')
    result = run("score", "distinct", captions, "--draws", 100)
    assert result.exit_code == 0, result.output
    assert "Distinct-1 mean" in result.output
    folder = run_folder(tmp_path / "run", ["1", "2"], captions)
    line = {"sample": "1", "image_id": 1, "caption": "A dog."}
    (folder / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    result = run("score", "distinct", folder, "--draws", 100)
    assert result.exit_code == 0, result.output
    assert "note: 1 of the run's 2 samples are scored; 0 failed, 1 have" in result.stderr
    graph = {"objects": ["cat"], "attributes": {}, "relations": []}
    graphs = tmp_path / "graphs.jsonl"
    graphs.write_text(json.dumps({"id": 1, "candidate": graph, "references": [graph]}))
    result = run("score", "capture", graphs, "--variant", "exact", "--draws", 100)
    assert result.exit_code == 0, result.output
    assert "41.7" in result.output
