from vlmheads.adapters.family import Family

FAMILY = Family(
    "Mistral 3 (Pixtral)", ("mistral3",), note="row breaks between runs of image tokens"
)
