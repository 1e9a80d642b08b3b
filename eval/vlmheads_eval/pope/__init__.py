"""POPE: yes/no questions about objects (Li et al., 2023)."""
