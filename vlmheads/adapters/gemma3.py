from vlmheads.adapters.family import Family

FAMILY = Family(
    "Gemma 3", ("gemma3",), note="sliding windows; image tokens attend in both directions"
)
