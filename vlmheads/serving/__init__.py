"""An OpenAI-compatible server for a model with plugins attached."""
