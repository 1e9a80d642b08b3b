"""Read-only measurements of a model's heads."""

from vlmheads.detect.attention_sink import AttentionSinks, attention_sinks
from vlmheads.detect.attribution import Attribution, attribution, correlation
from vlmheads.detect.divergence import Trace, divergence, divergence_trace
from vlmheads.detect.dominance import Dominance, text_dominance
from vlmheads.detect.image_paths import image_paths, patches_in_mask
from vlmheads.detect.objectives import Answers
from vlmheads.detect.paths import text_paths
from vlmheads.detect.retrieval import patches_in_box, retrieval
from vlmheads.detect.select import Selection, select
from vlmheads.detect.sinks import VisualSinks, visual_sinks
from vlmheads.detect.visual import visual_directions

__all__ = [
    "Answers",
    "AttentionSinks",
    "Attribution",
    "Dominance",
    "Selection",
    "Trace",
    "VisualSinks",
    "attention_sinks",
    "attribution",
    "correlation",
    "divergence",
    "divergence_trace",
    "image_paths",
    "patches_in_box",
    "patches_in_mask",
    "retrieval",
    "select",
    "text_dominance",
    "text_paths",
    "visual_directions",
    "visual_sinks",
]
