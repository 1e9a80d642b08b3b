import json

import pytest
from vlmheads_eval.benchmarks.amber import AmberTruth, load_amber, read_responses
from vlmheads_eval.benchmarks.amber_score import score_amber

from vlmheads.errors import VlmHeadsError

PRINTED = {
    "all": "Descriminative Task",
    "existence": "Exsitence",
    "attribute": "Attribute",
    "state": "State",
    "number": "Number",
    "action": "Action",
    "relation": "Relation",
}


def printed(text):
    """Return the figures under each heading of what the reference prints."""
    blocks = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name and not value.strip():
            blocks[name] = figures = []
        elif value.strip():
            figures.append(float(value))
    return blocks


@pytest.fixture(scope="module")
def truth(shared, nltk_data):
    return load_amber(shared("amber"))


@pytest.fixture(scope="module")
def responses(shared):
    return read_responses(shared("amber/golden/responses.json"))


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads(shared("amber/golden/expected.json").read_text())


def test_every_description_scores_as_in_the_reference(truth, responses, golden):
    actual = {}
    for expected in golden["per_response_generative"]:
        number = expected["id"]
        result = score_amber({number: responses[number]}, truth)["generative"]
        actual[number] = [result[name] for name in ("CHAIR", "Cover", "Hal", "Cog")]
    assert actual == {
        expected["id"]: printed(expected["stdout"])["Generative Task"]
        for expected in golden["per_response_generative"]
    }


def test_all_responses_score_as_in_the_reference(truth, responses, golden):
    result = score_amber(responses, truth)
    actual = {"Generative Task": list(result["generative"].values())[1:]}
    for name, heading in PRINTED.items():
        part = result["discriminative"][name]
        actual[heading] = [part[key] for key in ("accuracy", "precision", "recall", "f1")]
    assert actual == printed(golden["all"])


def test_a_part_without_responses_has_no_figures(truth):
    assert score_amber({}, truth) == {
        "similarity": "exact",
        "generative": None,
        "discriminative": None,
        "amber_score": None,
        "sentences": None,
        "floors": None,
    }


def test_a_response_to_an_unknown_item_is_refused(truth):
    with pytest.raises(VlmHeadsError, match="item 99999"):
        score_amber({99999: "A dog."}, truth)


def test_a_similarity_that_is_not_installed_is_named(truth):
    with pytest.raises(VlmHeadsError, match="en_core_web_lg is not installed"):
        score_amber({1: "A dog."}, truth, "spacy:en_core_web_lg")


@pytest.mark.parametrize(
    ("kind", "dimension", "accuracy"),
    [
        ("discriminative-attribute-state", "state", 99.9),
        ("discriminative-attribute-state", "attribute", 99.7),
        ("discriminative-hallucination", "existence", 99.9),
    ],
)
def test_every_part_of_a_dimension_starts_its_own_counter(kind, dimension, accuracy):
    truth = AmberTruth({1: {"type": kind, "truth": "no"}}, {}, frozenset())
    assert score_amber({1: "No"}, truth)["discriminative"][dimension]["accuracy"] == accuracy
