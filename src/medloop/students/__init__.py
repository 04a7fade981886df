"""Learn from labels, then propose them."""
