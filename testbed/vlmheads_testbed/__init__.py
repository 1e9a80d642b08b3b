"""The test bench: a small real LLaVA and the scenes that it describes."""
