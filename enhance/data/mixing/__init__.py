"""Noisy mixtures: what is drawn, how it is rendered, and batches of it."""
