"""From images and prompts to predictions in a run folder."""
