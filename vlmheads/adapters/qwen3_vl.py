from vlmheads.adapters.family import Family

FAMILY = Family(
    "Qwen3-VL",
    ("qwen3_vl",),
    note="M-RoPE; image features also enter the first decoder layers",
)
