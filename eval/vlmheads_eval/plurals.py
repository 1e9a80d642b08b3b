"""The plurals of an English noun, for a reading that looks words up instead of cutting them."""

IRREGULAR = {
    "aircraft": ("aircraft",),
    "bison": ("bison",),
    "buffalo": ("buffalo", "buffaloes"),
    "calf": ("calves",),
    "cattle": ("cattle",),
    "child": ("children",),
    "children": ("children",),
    "goose": ("geese",),
    "knife": ("knives",),
    "loaf": ("loaves",),
    "luggage": ("luggage",),
    "mouse": ("mice",),
    "ox": ("oxen",),
    "oxen": ("oxen",),
    "people": ("people",),
    "person": ("people", "persons"),
    "scissors": ("scissors",),
    "sheep": ("sheep",),
    "skis": ("skis",),
    "thief": ("thieves",),
    "watercraft": ("watercraft",),
    "waterfowl": ("waterfowl", "waterfowls"),
}
SIBILANTS = ("s", "x", "z", "ch", "sh")


def plurals(noun: str) -> tuple[str, ...]:
    """Return how a noun or noun phrase is written in the plural ("bus": "buses", "busses")."""
    head, space, last = noun.rpartition(" ")
    for ending, forms in IRREGULAR.items():
        # A compound inflects as its last part does (pocketknife, grandchild).
        if last == ending or (len(ending) > 4 and last.endswith(ending)):
            return tuple(head + space + last[: -len(ending)] + form for form in forms)
    return tuple(head + space + form for form in _regular(last))


def _regular(word: str) -> tuple[str, ...]:
    if word.endswith("man") and word not in ("human", "german", "ottoman"):
        return (word[:-2] + "en",)
    if word.endswith("us"):
        return (word + "es", word + "ses")
    if word.endswith(SIBILANTS):
        return (word + "es",)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (word[:-1] + "ies",)
    if word.endswith("o"):
        return (word + "s", word + "es")
    return (word + "s",)
