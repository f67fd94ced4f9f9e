"""How a model is trained: `enhance.training.loop.fit` and its parts."""
