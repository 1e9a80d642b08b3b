from vlmheads.adapters.family import Family

FAMILY = Family(
    "PaliGemma",
    ("paligemma",),
    first_position=1,
    answer_type=1,
    note="the prompt attends in both directions; positions count from 1",
)
