from vlmheads.adapters.family import Family

FAMILY = Family("Qwen2.5-VL", ("qwen2_5_vl",), note="three-dimensional positions (M-RoPE)")
