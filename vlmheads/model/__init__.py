"""The user's model: its parts, its family, its vision side, and loading it."""
