from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Look:
    """One drawing of a category and the words that captions use for it.

    ``codepoint`` names the Twemoji graphic; ``words`` are (singular, plural) pairs, the first one
    the most frequent. Every word is in the vocabulary of CHAIR under the look's category.
    """

    category: int
    codepoint: str
    words: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Category:
    """A COCO-80 category: its COCO id, name and supercategory, and the looks that draw it."""

    id: int
    name: str
    supercategory: str
    looks: tuple[Look, ...]


# COCO id | name | supercategory | looks "codepoint singular/plural,synonym/plural ..."; an entry
# without looks is a category that no Twemoji graphic shows as what it is (a tennis ball is no
# racket, and a rider hides the snowboard): it is in the category list of the datasets, never in a
# picture.
_TABLE = """
1|person|person|1f9d1 person/people;1f468 man/men;1f469 woman/women;1f466 boy/boys;1f467 girl/girls
2|bicycle|vehicle|1f6b2 bicycle/bicycles,bike/bikes
3|car|vehicle|1f697 car/cars;1f695 taxi/taxis
4|motorcycle|vehicle|1f3cd motorcycle/motorcycles
5|airplane|vehicle|2708 airplane/airplanes,plane/planes
6|bus|vehicle|1f68c bus/buses
7|train|vehicle|1f686 train/trains
8|truck|vehicle|1f69a truck/trucks
9|boat|vehicle|26f5 boat/boats,sailboat/sailboats;1f6a2 ship/ships
10|traffic light|outdoor|1f6a6 traffic light/traffic lights
11|fire hydrant|outdoor|
13|stop sign|outdoor|1f6d1 stop sign/stop signs
14|parking meter|outdoor|
15|bench|outdoor|
16|bird|animal|1f426 bird/birds;1f986 duck/ducks;1f989 owl/owls
17|cat|animal|1f408 cat/cats;1f431 kitten/kittens
18|dog|animal|1f415 dog/dogs;1f436 puppy/puppies
19|horse|animal|1f40e horse/horses
20|sheep|animal|1f411 sheep/sheep
21|cow|animal|1f404 cow/cows;1f402 ox/oxen
22|elephant|animal|1f418 elephant/elephants
23|bear|animal|1f43b bear/bears;1f43c panda/pandas
24|zebra|animal|1f993 zebra/zebras
25|giraffe|animal|1f992 giraffe/giraffes
27|backpack|accessory|1f392 backpack/backpacks
28|umbrella|accessory|2602 umbrella/umbrellas
31|handbag|accessory|1f45c handbag/handbags,purse/purses
32|tie|accessory|1f454 tie/ties
33|suitcase|accessory|1f9f3 suitcase/suitcases
34|frisbee|sports|1f94f frisbee/frisbees
35|skis|sports|1f3bf skis/skis
36|snowboard|sports|
37|sports ball|sports|26bd ball/balls,sports ball/sports balls
38|kite|sports|1fa81 kite/kites
39|baseball bat|sports|
40|baseball glove|sports|
41|skateboard|sports|1f6f9 skateboard/skateboards
42|surfboard|sports|
43|tennis racket|sports|
44|bottle|kitchen|1f37e bottle/bottles
46|wine glass|kitchen|1f377 wine glass/wine glasses
47|cup|kitchen|2615 cup/cups
48|fork|kitchen|1f374 fork/forks
49|knife|kitchen|1f52a knife/knives
50|spoon|kitchen|1f944 spoon/spoons
51|bowl|kitchen|1f35a bowl/bowls
52|banana|food|1f34c banana/bananas
53|apple|food|1f34e apple/apples;1f34f apple/apples
54|sandwich|food|1f96a sandwich/sandwiches;1f354 burger/burgers
55|orange|food|1f34a orange/oranges
56|broccoli|food|1f966 broccoli/broccoli
57|carrot|food|1f955 carrot/carrots
58|hot dog|food|1f32d hot dog/hot dogs
59|pizza|food|1f355 pizza/pizzas
60|donut|food|1f369 donut/donuts,doughnut/doughnuts
61|cake|food|1f382 cake/cakes;1f9c1 cupcake/cupcakes
62|chair|furniture|1fa91 chair/chairs
63|couch|furniture|1f6cb couch/couches,sofa/sofas
64|potted plant|furniture|1fab4 potted plant/potted plants
65|bed|furniture|1f6cf bed/beds
67|dining table|furniture|
70|toilet|furniture|1f6bd toilet/toilets
72|tv|electronic|1f4fa tv/tvs,television/televisions
73|laptop|electronic|1f4bb laptop/laptops,computer/computers
74|mouse|electronic|1f5b1 mouse/mice
75|remote|electronic|
76|keyboard|electronic|2328 keyboard/keyboards
77|cell phone|electronic|1f4f1 cell phone/cell phones,phone/phones
78|microwave|appliance|
79|oven|appliance|
80|toaster|appliance|
81|sink|appliance|
82|refrigerator|appliance|
84|book|indoor|1f4d6 book/books
85|clock|indoor|1f570 clock/clocks
86|vase|indoor|1f3fa vase/vases
87|scissors|indoor|2702 scissors/scissors
88|teddy bear|indoor|1f9f8 teddy bear/teddy bears
89|hair drier|indoor|
90|toothbrush|indoor|1faa5 toothbrush/toothbrushes
"""


@cache
def categories() -> tuple[Category, ...]:
    """Return the 80 categories of COCO in the order of their ids."""
    return tuple(_category(line) for line in _TABLE.strip().splitlines())


@cache
def drawable() -> dict[str, Category]:
    """Return the categories that scenes can show, by name."""
    return {category.name: category for category in categories() if category.looks}


@cache
def looks() -> tuple[Look, ...]:
    """Return every drawing, in table order: the classes of the vision tower's training."""
    return tuple(look for category in categories() for look in category.looks)


@cache
def word_categories() -> dict[str, str]:
    """Map each word or two-word name, singular and plural, to the name of its category."""
    return {
        word: category.name
        for category in categories()
        for words in [(category.name,), *(pair for look in category.looks for pair in look.words)]
        for word in words
    }


@cache
def nouns() -> frozenset[tuple[str, str]]:
    """Return the words for categories that scenes can show and for all others, with plurals."""
    named = {(category.name, f"{category.name}s") for category in categories()}
    drawn = {pair for look in looks() for pair in look.words}
    known = {one for one, _ in drawn}
    return frozenset(drawn | {pair for pair in named if pair[0] not in known})


def with_article(noun: str) -> str:
    """Put "a" or "an" before a singular noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _category(line: str) -> Category:
    number, name, supercategory, drawings = line.split("|")
    return Category(
        id=int(number),
        name=name,
        supercategory=supercategory,
        looks=tuple(_look(int(number), drawing) for drawing in drawings.split(";") if drawing),
    )


def _look(category: int, drawing: str) -> Look:
    codepoint, words = drawing.split(" ", 1)
    pairs = (pair.split("/") for pair in words.split(","))
    return Look(category, codepoint, tuple((one, many) for one, many in pairs))
