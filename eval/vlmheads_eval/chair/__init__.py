"""CHAIR: object hallucination in captions (Rohrbach et al., 2018)."""
