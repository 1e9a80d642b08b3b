from vlmheads.adapters.family import Family

FAMILY = Family("InternVL", ("internvl",))
