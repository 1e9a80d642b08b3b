from vlmheads.adapters.family import Family

FAMILY = Family(
    "Florence-2",
    ("florence2",),
    refusal="it is an encoder-decoder model: the image is in the encoder, not in the prompt",
)
