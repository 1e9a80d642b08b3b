import json

import pytest
from vlmheads_eval.chair.variants import get_variant

from vlmheads.errors import VlmHeadsError


@pytest.fixture(scope="module")
def nodes():
    read = get_variant("fixed", parser=False).read
    return lambda caption: [mention.node for mention in read(caption).mentions]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A bus, a minibus and two buses.", ["bus", "bus", "bus"]),
        ("Two men in ties.", ["person", "tie"]),
        ("Canoes, magpies, collies and doggies.", ["boat", "bird", "dog", "dog"]),
        ("Taxis, geese and vases.", ["car", "bird", "vase"]),
        ("A motor bike and a cheesecake.", ["motorcycle", "cake"]),
        ("Her iPhone is by the hair dryer.", ["cell phone", "hair drier"]),
        ("The stove top oven and three tennis rackets.", ["oven", "tennis racket"]),
        ("A soldier with two knives.", ["person", "knife"]),
        ("A hot-dog.", ["hot dog"]),
        ("A baby panda with a baby.", ["bear", "person"]),
        ("Home plate and the train tracks.", []),
        ("A toilet with its seat up.", ["toilet"]),
    ],
)
def test_a_corrected_word_is_counted_once_and_as_what_it_is(nodes, caption, expected):
    assert nodes(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("There isn't a cat in the picture.", []),
        ("There are no people, cars or dogs.", []),
        ("A street without any cars.", []),
        ("Neither a dog nor a cat.", []),
        ("The photo does not show any trains.", []),
        ("The man is not sitting on the bench.", ["person", "bench"]),
        ("No doubt a cat.", ["cat"]),
        ("Not only a cat but a dog.", ["cat", "dog"]),
        ("There is no cat, but a dog sleeps.", ["dog"]),
        ("No one is on the bench.", ["bench"]),
        ("There is not cat food.", ["cat"]),
        ("No cat or dog.", []),
        ("No cat, dog.", []),
        ("No cat and a dog.", ["dog"]),
        ("No cat sees a dog.", ["dog"]),
        ("No roof over the dog.", ["dog"]),
    ],
)
def test_a_negated_object_is_no_mention(nodes, caption, expected):
    assert nodes(caption) == expected


@pytest.mark.parametrize("negation", ["without", "no", "neither", "not a", "does not show a"])
@pytest.mark.parametrize("between", range(9))
def test_a_negation_reaches_over_at_most_five_words(nodes, negation, between):
    words = "very big old brown tired wet loud lazy".split()[:between]
    caption = " ".join([negation, *words, "dog"])
    inside = between + len(negation.partition("not ")[2].split())  # "a", or "show a", is between.
    assert nodes(caption) == ([] if inside <= 5 else ["dog"])


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("An orange cat.", ["cat"]),
        ("An orange and white truck.", ["truck"]),
        ("The kite is orange.", ["kite"]),
        ("An orange on a plate.", ["orange"]),
        ("Two oranges.", ["orange"]),
        ("She holds a peeled orange.", ["orange"]),
    ],
)
def test_the_colour_orange_is_no_fruit(nodes, caption, expected):
    assert nodes(caption) == expected


def test_places_are_those_of_the_words_also_behind_a_dropped_seat():
    variant = get_variant("fixed", parser=False).read(
        "A toilet with its seat up, next to a chair, a cat and a sink."
    )
    assert [(mention.word, mention.place) for mention in variant.mentions] == [
        *(("toilet", 1), ("chair", 10), ("cat", 13), ("sink", 16))
    ]


def test_a_vocabulary_of_other_categories_is_counted(tmp_path):
    table = {"categories": {"crane": ["digger crane"], "lorry": []}, "doubles": {"toy lorry": "-"}}
    path = tmp_path / "words.json"
    path.write_text(json.dumps(table))
    read = get_variant("fixed", path, parser=False).read
    mentions = read("Two digger cranes, a crane, a toy lorry, lorries and a dog.").mentions
    assert [mention.node for mention in mentions] == ["crane", "crane", "lorry"]


def test_a_vocabulary_is_refused_for_a_reference_variant(tmp_path):
    with pytest.raises(VlmHeadsError, match="variant 'fixed'"):
        get_variant("pattern", tmp_path / "words.json")


@pytest.mark.parametrize("content", ["[]", "{", '{"categories": {}}', '{"categories": {"a": "b"}}'])
def test_a_vocabulary_of_another_shape_is_refused_by_name(tmp_path, content):
    path = tmp_path / "words.json"
    path.write_text(content)
    with pytest.raises(VlmHeadsError, match=r"words\.json"):
        get_variant("fixed", path, parser=False)
