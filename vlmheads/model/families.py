"""What differs between model families: one table, and a generic default.

A new family that follows the common layout needs no row; one with a fact of its own (a first
position, a refusal) gets a row in `FAMILIES`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Facts about one family of vision-language models.

    Args:
        name: what `vlmheads families` calls it.
        model_types: the `config.model_type` values that belong to it.
        first_position: the position id of a prompt's first token.
        answer_type: the token type of what the model generates, where it tells token types apart.
        refusal: why the family cannot be attached to; empty where it can.
        tested: whether the tests run a model of this family.
        note: one line for people.
    """

    name: str
    model_types: tuple[str, ...]
    first_position: int = 0
    answer_type: int = 0
    refusal: str = ""
    tested: bool = True
    note: str = ""


FAMILIES: tuple[Family, ...] = (
    Family(
        "Florence-2",
        ("florence2",),
        refusal="it is an encoder-decoder model: the image is in the encoder, not in the prompt",
    ),
    Family("Gemma 3", ("gemma3",), note="sliding windows; image tokens attend in both directions"),
    Family("Idefics3 / SmolVLM", ("idefics3", "smolvlm"), note="tiles with marker tokens"),
    Family("InternVL", ("internvl",)),
    Family("LLaVA 1.5", ("llava",), note="one image, a fixed number of tokens"),
    Family("LLaVA-NeXT", ("llava_next",), note="tiles, and a learned newline among image tokens"),
    Family("LLaVA-OneVision", ("llava_onevision",), note="tiles; video tokens count as image"),
    Family("Mistral 3 (Pixtral)", ("mistral3",), note="row breaks between runs of image tokens"),
    Family(
        "Mllama",
        ("mllama",),
        refusal="it reads images through cross-attention layers, "
        "so its prompt holds no image tokens",
    ),
    Family(
        "PaliGemma",
        ("paligemma",),
        first_position=1,
        answer_type=1,
        note="the prompt attends in both directions; positions count from 1",
    ),
    Family("Qwen2-VL", ("qwen2_vl",), note="three-dimensional positions (M-RoPE)"),
    Family("Qwen2.5-VL", ("qwen2_5_vl",), note="three-dimensional positions (M-RoPE)"),
    Family(
        "Qwen3-VL",
        ("qwen3_vl",),
        note="M-RoPE; image features also enter the first decoder layers",
    ),
    Family("VipLlava", ("vipllava",), note="features of several vision layers"),
)


def families() -> tuple[Family, ...]:
    """Every known family, by name."""
    return tuple(sorted(FAMILIES, key=lambda family: family.name))


def list_families() -> list[str]:
    """Names of the model families that can be attached to."""
    return [family.name for family in families() if not family.refusal]


def family_of(model_type: str) -> Family:
    """Return the family of a `config.model_type`; an unknown one gets the generic layout."""
    for family in families():
        if model_type in family.model_types:
            return family
    return Family(model_type, (model_type,), tested=False, note="generic layout")
