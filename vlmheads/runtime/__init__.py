"""What acts while a model generates: the attachment, its hooks, and one forward pass."""
