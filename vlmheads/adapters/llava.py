from vlmheads.adapters.family import Family

FAMILY = Family("LLaVA 1.5", ("llava",), note="one image, a fixed number of tokens")
