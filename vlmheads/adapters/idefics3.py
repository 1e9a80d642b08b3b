from vlmheads.adapters.family import Family

FAMILY = Family("Idefics3 / SmolVLM", ("idefics3", "smolvlm"), note="tiles with marker tokens")
