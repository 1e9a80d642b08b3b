"""Gains of attention heads learned from images with known objects."""
