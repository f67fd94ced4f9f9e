"""From a trained model to the weights that the plain C network reads."""
