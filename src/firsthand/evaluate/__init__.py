"""How good a model is, with its uncertainty and its baselines beside it."""
