from vlmheads.adapters.family import Family

FAMILY = Family("VipLlava", ("vipllava",), note="features of several vision layers")
