from vlmheads.adapters.family import Family

FAMILY = Family(
    "Mllama",
    ("mllama",),
    refusal="it reads images through cross-attention layers, so its prompt holds no image tokens",
)
