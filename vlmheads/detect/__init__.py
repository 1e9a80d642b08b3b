"""Read-only measurements of a model's heads."""

from vlmheads.detect.divergence import Trace, divergence, divergence_trace
from vlmheads.detect.sinks import VisualSinks, visual_sinks

__all__ = ["Trace", "VisualSinks", "divergence", "divergence_trace", "visual_sinks"]
