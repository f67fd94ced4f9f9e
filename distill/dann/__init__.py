"""Domain-adversarial training (DANN) on a speech model's layers, and the plain one beside it."""
