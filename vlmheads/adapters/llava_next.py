from vlmheads.adapters.family import Family

FAMILY = Family(
    "LLaVA-NeXT", ("llava_next",), note="tiles, and a learned newline among image tokens"
)
