"""What the demo does, for its page and its API alike: one service for each task."""
