"""Evaluation of captions and answers: predict, score, compare, report."""
