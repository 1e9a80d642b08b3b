"""Checks that hold one loaded model to the contract of docs/architecture.md, on its own machine."""
