from vlmheads.adapters.family import Family

FAMILY = Family("Qwen2-VL", ("qwen2_vl",), note="three-dimensional positions (M-RoPE)")
