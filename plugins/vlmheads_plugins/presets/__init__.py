"""Presets that vlmheads ships: the settings of the papers, one JSON file each."""
