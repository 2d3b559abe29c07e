"""Training: clips, latents, the flow-matching objective, the codec fit and the one loop of the world model."""
