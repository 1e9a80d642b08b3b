"""What a model family is: a handful of facts, no code."""

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
