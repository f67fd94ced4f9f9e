"""Recognisers that listen to what was reconstructed."""
