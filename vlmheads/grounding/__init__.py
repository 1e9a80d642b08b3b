"""How far the image supports each word of a caption, and captions without unsupported ones."""

from vlmheads.grounding.catalogue import SCORES, token_scores
from vlmheads.grounding.lpfv import lpfv
from vlmheads.grounding.measure import Grounding, grounding
from vlmheads.grounding.questions import p_yes, read_served_answer
from vlmheads.grounding.rewrite import drop_clauses
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import Word, ground_words, word_spans

__all__ = [
    "SCORES",
    "Grounding",
    "Scorer",
    "Word",
    "drop_clauses",
    "ground_words",
    "grounding",
    "lpfv",
    "p_yes",
    "read_served_answer",
    "token_scores",
    "word_spans",
]
