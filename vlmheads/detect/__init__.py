"""Read-only measurements of a model's heads."""

from vlmheads.detect.divergence import Trace, divergence, divergence_trace

__all__ = ["Trace", "divergence", "divergence_trace"]
