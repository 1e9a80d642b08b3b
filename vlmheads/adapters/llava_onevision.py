from vlmheads.adapters.family import Family

FAMILY = Family("LLaVA-OneVision", ("llava_onevision",), note="tiles; video tokens count as image")
