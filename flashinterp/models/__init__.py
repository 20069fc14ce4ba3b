"""A model on disk or in memory: its weights, its layout and the proof of it, its forward pass."""
