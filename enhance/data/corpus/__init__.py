"""Clips of speech and noise: manifests, decoded samples, the built-in corpus."""
