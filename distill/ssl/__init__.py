"""Self-supervised pre-training: the families, one run for all, what they need."""
