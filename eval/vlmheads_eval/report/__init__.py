"""Comparisons as tables, figures and one HTML page."""
