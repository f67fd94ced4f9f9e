"""How good a model is, clip by clip."""
