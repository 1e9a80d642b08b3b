"""How far the image supports each word of a caption, and captions without unsupported ones."""

from vlmheads.grounding.measure import Grounding, grounding
from vlmheads.grounding.rewrite import drop_clauses
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import Word, ground_words, word_spans

__all__ = [
    "Grounding",
    "Scorer",
    "Word",
    "drop_clauses",
    "ground_words",
    "grounding",
    "word_spans",
]
