"""A factor on every head: learned from choices between next tokens, and exported."""
