"""The built-in corpus: voices and noises from formulas."""
