"""Benchmarks of questions: records, readings of answers, figures with floors and intervals."""
