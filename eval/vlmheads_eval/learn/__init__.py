"""What methods learn from a model: from its own captions, labelled by what is in the images."""
