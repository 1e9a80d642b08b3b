import json

import pytest
import tiny_benchmarks as tiny
from vlmheads_eval.benchmarks.catalogue import LISTINGS
from vlmheads_eval.benchmarks.check import check

from vlmheads.errors import VlmHeadsError


def test_every_benchmark_says_where_its_data_are(run):
    names = run("data")
    assert names.exit_code == 0
    for name, listing in LISTINGS.items():
        assert f"{name}: {listing.title}" in names.output
        shown = run("data", name)
        assert shown.exit_code == 0
        for part in ("from: ", "files: ", "licence: ", f"vlmheads {listing.command}"):
            assert part in shown.output


def test_an_unknown_name_is_refused_with_the_known_ones(run):
    result = run("data", "vqa")
    assert result.exit_code == 2
    assert "expected coco or pope" in result.stderr


def test_counts_that_differ_from_the_full_data_are_named(run, tmp_path):
    data = tiny.mme_release(tmp_path / "mme")
    result = run("data", "mme", "--data", data)
    assert result.exit_code == 2
    assert "questions: 16" in result.output
    assert "16 questions, 240 expected" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_missing_images_are_counted_and_named(tmp_path):
    data = tiny.mme_release(tmp_path / "mme")
    (data / "count" / "001.jpg").unlink()
    found = check("mme", [data], None)
    [problem] = [one for one in found.problems if "missing" in one]
    assert problem.startswith("1 of 8 images missing")
    assert "001.jpg" in problem


def test_another_version_of_a_file_is_named(tmp_path):
    data = tiny.hallusionbench(tmp_path)
    found = check("hallusionbench", [data], None)
    assert f"{data} is not a version known to us" in found.problems
    assert found.counts["questions with an image"] == found.counts["images"] == 4


def test_rows_without_an_image_are_found_in_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    rows = tiny.popev2_rows()
    path = tiny.write_parquet(tmp_path / "whole.parquet", rows)
    assert not any("without" in one for one in check("popev2", [path], None).problems)
    rows[1]["normal_image"]["bytes"] = None
    path = tiny.write_parquet(tmp_path / "torn.parquet", rows)
    assert f"{path}: 1 rows without normal_image" in check("popev2", [path], None).problems


def test_the_published_amber_is_whole(shared):
    found = check("amber", [shared("amber")], None)
    assert found.problems == []
    assert found.counts["questions"] == 15_220
    assert len(found.sha256) == 7


def test_coco_with_a_repeated_annotation_id_is_told(tmp_path):
    (tmp_path / "images").mkdir()
    tiny.write_image(tmp_path / "images" / "1.jpg", 1)
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1}] * 2,
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    found = check("coco", [tmp_path], None)
    assert found.problems[0] == "instances.json: 1 annotations with a repeated id, 5"
    assert found.problems[1].startswith("1 of 2 images missing")


def test_pope_with_a_question_twice_is_told(tmp_path):
    path = tmp_path / "coco_pope_random.json"
    record = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}
    path.write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(VlmHeadsError, match=r"coco_pope_random.json:2: question 1 again"):
        check("pope", [path], tmp_path)


def test_data_that_have_no_fixed_form_are_not_checked(tmp_path):
    with pytest.raises(VlmHeadsError, match="no fixed form"):
        check("capture", [tmp_path], None)
