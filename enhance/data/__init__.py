"""What is heard: corpora of clips, mixtures of them, noise from formulas, evaluation sets."""
