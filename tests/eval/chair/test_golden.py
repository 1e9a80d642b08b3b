import json

import pytest
from vlmheads_eval.chair.ground_truth import load_ground_truth
from vlmheads_eval.chair.score import score_captions, score_chair
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.records import read_captions

KEYS = {"pattern": "A_pattern", "wordnet": "B_wordnet"}
RUNS = """lim_r1-llava1.5-7b lim_r2-vcd lim_r9-llava-7b opera_instructblip_greedy
opera_llava-1.5_greedy opera_llava-1.5_ours opera_minigpt4_greedy opera_shikra_beam5""".split()


@pytest.fixture(scope="module", params=["pattern", "wordnet"])
def variant(request):
    if request.param == "wordnet":
        request.getfixturevalue("nltk_data")
    return get_variant(request.param)


@pytest.fixture(scope="module")
def handmade_truth(handmade, variant):
    files = [handmade / "handmade_instances.json", handmade / "handmade_captions_gt.json"]
    return load_ground_truth(files, variant)


def test_every_handmade_caption_scores_as_in_the_reference(handmade, handmade_truth, variant):
    expected = json.loads((handmade / "handmade_expected.json").read_text())[KEYS[variant.name]]
    captions = read_captions(handmade / "handmade_captions.json")
    actual = [
        score.to_dict() | {"truth": sorted(score.truth)}
        for _, _, score in score_captions(captions, handmade_truth, variant)
    ]
    assert actual == [
        {
            "image_id": sentence["image_id"],
            "generated": sentence["mscoco_generated_words"],
            "hallucinated": sentence["mscoco_hallucinated_words"],
            "indices": sentence["hallucination_idxs"],
            "CHAIRs": sentence["metrics"]["CHAIRs"],
            "CHAIRi": sentence["metrics"]["CHAIRi"],
            "recall": sentence["metrics"]["Recall"],
            "words": len(sentence["words"]),
            "truth": sorted(sentence["mscoco_gt_words"]),
        }
        for sentence in expected["sentences"]
    ]


def test_the_handmade_corpus_scores_as_in_the_reference(handmade, handmade_truth, variant):
    expected = json.loads((handmade / "handmade_expected.json").read_text())[KEYS[variant.name]]
    captions = read_captions(handmade / "handmade_captions.json")
    actual = score_chair(captions, handmade_truth, variant)["reference"]
    assert {name: actual[name] for name in expected["overall_metrics"]} == pytest.approx(
        expected["overall_metrics"], abs=1e-12
    )


def test_every_word_of_the_vocabulary_is_read_as_in_the_reference(shared_json, variant):
    letter = KEYS[variant.name][0]
    golden = shared_json("chair/vocab_golden.json")
    actual = [variant.read(entry["caption"]).mentions for entry in golden]
    assert [([m.word for m in found], [m.node for m in found]) for found in actual] == [
        (entry[f"{letter}_words"], entry[f"{letter}_nodes"]) for entry in golden
    ]


@pytest.fixture(scope="module")
def coco_truth(shared, variant):
    return load_ground_truth([shared("coco/gt_objects_2014.json")], variant)


@pytest.mark.parametrize("run", RUNS)
def test_published_captions_score_as_in_the_reference(run, shared, coco_truth, variant):
    expected = json.loads(shared(f"captions/{run}.expected.json").read_text())[KEYS[variant.name]]
    scores = []
    result = score_chair(
        read_captions(shared(f"captions/{run}.jsonl")),
        coco_truth,
        variant,
        each=lambda _, score: scores.append(score.to_dict()),
    )
    assert [
        {
            "image_id": score["image_id"],
            "gen": score["generated"],
            "hal": score["hallucinated"],
            "idx": score["indices"],
            "ntok": score["words"],
        }
        for score in scores
    ] == expected["sentences"]
    assert {name: result["reference"][name] for name in expected["overall"]} == pytest.approx(
        expected["overall"], abs=1e-12
    )
