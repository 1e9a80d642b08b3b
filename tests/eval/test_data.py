import json

import pytest
from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.score import score_chair
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.data import load_material
from vlmheads_eval.pope.questions import read_questions
from vlmheads_eval.records import Caption
from vlmheads_eval.report.figures import pictures_of

from vlmheads.errors import VlmHeadsError


@pytest.fixture
def coco(tmp_path):
    """A folder in the layout of COCO 2017, with a train split beside the one to ask about."""
    names = ("dog", "cat", "bus", "car", "cup", "bed", "kite", "bench")
    for split, first in (("train", 1000), ("val", 0)):
        (tmp_path / f"{split}2017").mkdir()
        images = [{"id": first + n, "file_name": f"{first + n:012d}.jpg"} for n in range(20)]
        annotations = [
            {"id": 10 * n + k, "image_id": first + n, "category_id": (n + 3 * k) % 8}
            for n in range(20)
            for k in range(3)
        ]
        content = {
            "images": images[::-1],
            "annotations": annotations,
            "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        }
        folder = tmp_path / "annotations"
        folder.mkdir(exist_ok=True)
        (folder / f"instances_{split}2017.json").write_text(json.dumps(content))
    return tmp_path


def keys(material):
    return [sample.key for sample in material.samples]


def test_images_of_a_coco_folder_are_asked_about_in_the_order_of_their_ids(coco, tmp_path):
    material = load_material([str(coco)], "caption", workspace=tmp_path / "w")
    assert keys(material) == [str(n) for n in range(20)]
    assert material.samples[7].image == coco / "val2017" / "000000000007.jpg"


def test_a_number_and_a_seed_pick_the_same_images_everywhere(coco, tmp_path):
    material = load_material([str(coco)], "caption", workspace=tmp_path, num=5, seed=0)
    assert keys(material) == ["12", "13", "1", "8", "15"]


def test_image_ids_of_a_file_are_asked_about_in_its_order(coco, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("000000000004\n2\n")
    material = load_material([str(coco)], "caption", workspace=tmp_path, ids=ids)
    assert keys(material) == ["4", "2"]


def test_an_image_id_that_is_not_there_is_named(coco, tmp_path):
    ids = tmp_path / "ids.json"
    ids.write_text("[4, 77]")
    with pytest.raises(VlmHeadsError, match="image 77"):
        load_material([str(coco)], "caption", workspace=tmp_path, ids=ids)


@pytest.mark.parametrize("content", [b"[1, ", b"\xff"])
def test_a_file_that_lists_no_ids_is_named(coco, tmp_path, content):
    ids = tmp_path / "ids.json"
    ids.write_bytes(content)
    with pytest.raises(VlmHeadsError, match=r"ids\.json: (not JSON|bytes that are not UTF-8)"):
        load_material([str(coco)], "caption", workspace=tmp_path, ids=ids)


def test_annotations_that_are_not_cocos_are_named(coco, tmp_path):
    (coco / "annotations" / "instances_val2017.json").write_text('{"images": [{"id": 1}]}')
    with pytest.raises(
        VlmHeadsError, match=r"instances_val2017\.json: no key 'annotations'; expected COCO's"
    ):
        load_material([str(coco)], "caption", workspace=tmp_path)


def test_more_images_than_there_are_are_refused(coco, tmp_path):
    with pytest.raises(VlmHeadsError, match="at most the 20 images"):
        load_material([str(coco)], "caption", workspace=tmp_path, num=21)


def test_pope_is_built_from_coco_data_for_all_three_strategies(coco, tmp_path):
    material = load_material([str(coco)], "pope", workspace=tmp_path / "w")
    files = [read_questions(path) for path in material.ground_truth]
    assert [file.split for file in files] == ["random", "popular", "adversarial"]
    assert {len(file.questions) for file in files} == {120}
    assert material.samples[0].image.parent == coco / "val2017"
    assert material.samples[0].record == {"split": "random", "question_id": 1}


def test_question_files_are_asked_with_a_frame(coco, tmp_path):
    path = tmp_path / "coco_pope_popular.json"
    record = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}
    path.write_text(json.dumps(record))
    [sample] = load_material(
        [str(path)], "pope", workspace=tmp_path, images=coco, prompt="{question} Say yes or no."
    ).samples
    assert (sample.key, sample.prompt) == ("popular/1", "Is there a dog? Say yes or no.")


def test_questions_without_their_images_are_refused(coco, tmp_path):
    path = tmp_path / "coco_pope_popular.json"
    path.write_text("")
    with pytest.raises(VlmHeadsError, match="--images"):
        load_material([str(path)], "pope", workspace=tmp_path)


def test_amber_asks_its_queries_in_order(shared, tmp_path):
    material = load_material([str(shared("amber"))], "amber", workspace=tmp_path, images=tmp_path)
    assert len(material.samples) == 15220
    assert material.samples[0].record == {"id": 1}
    assert material.samples[0].answer_field == "response"


def test_scenes_are_made_once_and_their_own_captions_invent_nothing(tmp_path):
    material = load_material(["testbed:counterfactual"], "caption", workspace=tmp_path, num=6)
    again = load_material(["testbed:counterfactual"], "caption", workspace=tmp_path, num=6)
    assert material == again
    variant = get_variant("fixed")
    truth = load_ground_truth(material.ground_truth, variant)
    content = json.loads((material.ground_truth[-1]).read_text())
    captions = [Caption(entry["image_id"], entry["caption"]) for entry in content["annotations"]]
    assert score_chair(captions, truth, variant)["overall"]["CHAIRs"] == 0.0


@pytest.mark.parametrize(
    ("data", "task", "message"),
    [
        (["nowhere"], "caption", "no folder nowhere"),
        (["testbed:test"], "poem", "task 'poem'"),
        (["testbed:nothing"], "caption", "split 'nothing'"),
        (["a", "b"], "caption", "2 data sources"),
    ],
)
def test_what_cannot_be_asked_about_is_refused_by_name(tmp_path, data, task, message):
    with pytest.raises(VlmHeadsError, match=message):
        load_material(data, task, workspace=tmp_path)


def test_a_report_shows_the_pictures_that_are_at_hand(tmp_path):
    material = load_material(["testbed:test"], "caption", workspace=tmp_path, num=2)
    picture = pictures_of(material.ground_truth)
    assert picture(material.samples[0].record["image_id"]).startswith("data:image/jpeg;base64,")
    assert picture(77) is None


def test_a_broken_picture_is_left_out(coco):
    (coco / "val2017" / "000000000003.jpg").write_bytes(b"none")
    assert pictures_of([coco])(3) is None
